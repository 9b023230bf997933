// Fuzzing what the C library reads: a bundle's description, its grammar and tokenizer, and views.
//
// `make sanitize` builds it with AddressSanitizer and UndefinedBehaviorSanitizer and runs it on
// mutants of the demonstration bundle. The first byte of an input chooses the target. With clang,
// -DMAMMOFM_LIBFUZZER=ON leaves the choice of mutants to libFuzzer, which is guided by coverage.

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "mammofm.h"
#include "runtime/bundle.hpp"
#include "runtime/failure.hpp"
#include "runtime/grammar.hpp"
#include "runtime/inputs.hpp"
#include "runtime/prepare.hpp"
#include "runtime/tokenizer.hpp"

namespace {

using namespace mammofm;

/// A folder of this process, in memory where there is such a place.
const std::string& scratch() {
    static const std::string folder = [] {
        char shared[] = "/dev/shm/mammofm-fuzz-XXXXXX", plain[] = "/tmp/mammofm-fuzz-XXXXXX";
        const char* made = mkdtemp(shared);
        return std::string(made != nullptr ? made : mkdtemp(plain));
    }();
    return folder;
}

void write_file(const std::string& name, std::string_view data) {
    std::FILE* file = std::fopen((scratch() + "/" + name).c_str(), "wb");
    if (file == nullptr || std::fwrite(data.data(), 1, data.size(), file) != data.size())
        std::abort();
    std::fclose(file);
}

/// The description, over files that are as it says only by luck: hashing is not what is tested.
void open_a_bundle(std::string_view data) {
    write_file("bundle.json", data);
    open_bundle(scratch());
}

/// Every word of a language can be spoken and read again.
void speak(const Grammar& grammar, const Tokenizer& tokenizer) {
    const Language language = grammar.language({true, true, true, false});
    const TokenAutomaton automaton = language.automaton(tokenizer);
    std::minstd_rand random;
    std::vector<Token> tokens;
    TokenAutomaton::States states = automaton.start();
    for (;;) {
        const std::vector<Token> allowed = automaton.allowed(states);
        if (allowed.empty())
            break;
        tokens.push_back(allowed[random() % allowed.size()]);
        states = automaton.after(states, tokens.back());
    }
    if (tokens.size() > automaton.longest())
        std::abort();
    language.read(tokenizer.decode(tokens));
}

std::string demo_folder;

void read_a_grammar(std::string_view data) {
    static const Tokenizer tokenizer(demo_folder, "tokenizer.json");
    write_file("grammar.json", data);
    speak(Grammar(scratch(), "grammar.json"), tokenizer);
}

void read_a_tokenizer(std::string_view data) {
    static const Grammar grammar(demo_folder, "grammar.json");
    write_file("tokenizer.json", data);
    speak(grammar, Tokenizer(scratch(), "tokenizer.json"));
}

/// The bytes are a struct mfm_view without its pointers, then pixels, as many as there are.
void prepare_a_view(std::string_view data) {
    mfm_view view;
    MFM_INIT(view);
    std::memcpy(reinterpret_cast<char*>(&view) + sizeof(std::size_t), data.data(),
                std::min(data.size(), sizeof view - sizeof(std::size_t)));
    std::vector<char> pixels(
        data.begin() + static_cast<std::ptrdiff_t>(std::min(data.size(), sizeof view)), data.end());
    view.sop_instance_uid = nullptr;
    view.rows = static_cast<std::uint16_t>(view.rows) % 600;
    view.columns = static_cast<std::uint16_t>(view.columns) % 600;
    view.stride_bytes %= 2000;
    view.hidden_stride_bytes %= 2000;
    const std::size_t most = 600 * 2000;
    pixels.resize(most);  // what the sizes promise must be there: that is the caller's part
    view.pixels = view.pixels != nullptr ? pixels.data() : nullptr;
    view.hidden = view.hidden != nullptr ? reinterpret_cast<std::uint8_t*>(pixels.data()) : nullptr;
    const mfm_view* views[] = {&view};
    mfm_study study;
    MFM_INIT(study);
    study.views = views;
    study.view_count = 1;
    const StudyInput input = read_study(&study);
    const PreparedView prepared = prepare_view(input.views[0], {640, 384, 5, 40, true});
    const Box box = prepared.geometry.box_to_original({1, 2, 300, 600});
    if (prepared.image.pixels.size() != 640 * 384 || !(box[0] <= box[2] && box[1] <= box[3]))
        std::abort();
}

using Target = void (*)(std::string_view);
constexpr Target kTargets[] = {open_a_bundle, read_a_grammar, read_a_tokenizer, prepare_a_view};
constexpr std::size_t kTargetCount = sizeof kTargets / sizeof kTargets[0];

/// Whether the input was accepted; anything but our own refusal ends the process.
bool survives(const std::uint8_t* data, std::size_t size) {
    if (size == 0)
        return false;
    try {
        kTargets[data[0] % kTargetCount]({reinterpret_cast<const char*>(data + 1), size - 1});
        return true;
    } catch (const Failure& failure) {
        if (std::strchr(failure.what(), '\n') != nullptr)
            std::abort();
        return false;
    }
}

// -------------------- seeds

std::string read_file(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    std::string data;
    char piece[4096];
    for (std::size_t count; file != nullptr && (count = std::fread(piece, 1, sizeof piece, file));)
        data.append(piece, count);
    if (file != nullptr)
        std::fclose(file);
    return data;
}

std::string view_seed() {
    mfm_view view;
    MFM_INIT(view);
    view.pixels = view.hidden = reinterpret_cast<const std::uint8_t*>(&view);
    view.rows = 500;
    view.columns = 400;
    view.bits_allocated = 16;
    view.laterality = MFM_RIGHT;
    view.projection = MFM_MLO;
    view.photometric = MFM_MONOCHROME1;
    view.has_padding = 1;
    view.padding_high = 3;
    std::string data(1, '\3');
    data.append(reinterpret_cast<const char*>(&view) + sizeof(std::size_t),
                sizeof view - sizeof(std::size_t));
    data.append(sizeof(std::size_t), '\0');
    std::minstd_rand random;
    for (int row = 0; row < 500; ++row) {
        for (int i = 0; i < 800; ++i)
            data += row > 100 && row < 400 && i > 200 ? static_cast<char>(random()) : '\0';
    }
    return data;
}

std::vector<std::string> seeds() {
    std::vector<std::string> found;
    for (const char* name : {"bundle.json", "grammar.json", "tokenizer.json"})
        found.push_back(static_cast<char>(found.size()) + read_file(demo_folder + "/" + name));
    found.push_back(view_seed());
    return found;
}

/// The files of the demonstration bundle beside the description, so that its seed is accepted.
bool copy_demo_bundle() {
    const std::string command = "cp -r '" + demo_folder + "/.' '" + scratch() + "'";
    return std::system(command.c_str()) == 0;
}

void remove_scratch() {
    if (std::system(("rm -rf '" + scratch() + "'").c_str()) != 0)
        std::fprintf(stderr, "%s is left behind\n", scratch().c_str());
}

#ifndef MAMMOFM_LIBFUZZER
void mutate(std::string& data, std::mt19937_64& random) {
    static const char* const kTokens[] = {"null", "-1",       "1e999",  "99999999999999999999",
                                          "\"\"", "{}",       "[[[[",   "\\ud800",
                                          "\xff", "\"../x\"", ",",      ":",
                                          "true", "0.5",      "\\u0000"};
    for (std::size_t times = 1 + random() % 4; times > 0; --times) {
        const std::size_t at = 1 + random() % std::max<std::size_t>(data.size() - 1, 1);
        const std::size_t length = std::min<std::size_t>(random() % 64, data.size() - at);
        switch (random() % 6) {
            case 0:
                data[at % data.size()] ^= static_cast<char>(1u << random() % 8);
                break;
            case 1:
                data[at % data.size()] = static_cast<char>(random());
                break;
            case 2:
                data.erase(at, length);
                break;
            case 3:
                data.insert(at, data.substr(at, length));
                break;
            case 4:
                data.replace(at, length % 12, kTokens[random() % 15]);
                break;
            default:
                data.replace(at, length, data.substr(1 + random() % data.size() / 2, length));
        }
        if (data.size() < 2)
            return;
    }
}
#endif

}  // namespace

#ifdef MAMMOFM_LIBFUZZER
/// The bundle by MAMMOFM_DEMO_BUNDLE; the seeds go into the folder MAMMOFM_CORPUS.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
    const char *bundle = std::getenv("MAMMOFM_DEMO_BUNDLE"),
               *corpus = std::getenv("MAMMOFM_CORPUS");
    if (bundle == nullptr || corpus == nullptr)
        std::abort();
    demo_folder = bundle;
    if (!copy_demo_bundle() || std::atexit(remove_scratch) != 0)
        std::abort();
    for (const std::string& seed : seeds()) {
        if (!survives(reinterpret_cast<const std::uint8_t*>(seed.data()), seed.size()))
            std::abort();
        const std::string path = std::string(corpus) + "/seed-" + std::to_string(seed[0]);
        std::FILE* file = std::fopen(path.c_str(), "wb");
        if (file == nullptr || std::fwrite(seed.data(), 1, seed.size(), file) != seed.size())
            std::abort();
        std::fclose(file);
    }
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    survives(data, size);
    return 0;
}
#else
/// fuzz BUNDLE SECONDS SEED
int main(int count, char** arguments) {
    if (count != 4)
        return 2;
    demo_folder = arguments[1];
    const std::vector<std::string> all = seeds();
    if (!copy_demo_bundle())
        return 2;
    for (const std::string& seed : all) {
        if (!survives(reinterpret_cast<const std::uint8_t*>(seed.data()), seed.size())) {
            std::fprintf(stderr, "seed %d is refused\n", seed[0]);
            return 1;
        }
    }
    std::mt19937_64 random(std::strtoull(arguments[3], nullptr, 10));
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(arguments[2]));
    std::size_t accepted[kTargetCount] = {}, refused[kTargetCount] = {};
    while (std::chrono::steady_clock::now() < end) {
        std::string data = all[random() % all.size()];
        const auto target = static_cast<std::size_t>(data[0]);
        mutate(data, random);
        data[0] = static_cast<char>(target);
        write_file("last-input", data);  // what to look at after a crash
        ++(survives(reinterpret_cast<const std::uint8_t*>(data.data()), data.size())
               ? accepted
               : refused)[target];
    }
    for (std::size_t target = 0; target < kTargetCount; ++target)
        std::printf("target %zu: %zu accepted, %zu refused\n", target, accepted[target],
                    refused[target]);
    remove_scratch();
    return 0;
}
#endif
