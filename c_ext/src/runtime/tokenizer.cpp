#include "tokenizer.hpp"

#include <algorithm>
#include <queue>
#include <tuple>

#include "failure.hpp"

namespace mammofm {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{16} << 20;

/// The characters that stand for bytes in a byte-level vocabulary: printable Latin-1 for itself,
/// every other byte as the next character from U+0100 on.
std::vector<char32_t> byte_characters() {
    std::vector<char32_t> characters(256);
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
        bool itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
                      (byte >= 0xae && byte <= 0xff);
        characters[byte] = itself ? byte : next++;
    }
    return characters;
}

std::string utf8(char32_t character) {  // all of them are below U+0800
    if (character < 0x80)
        return {static_cast<char>(character)};
    return {static_cast<char>(0xc0 | character >> 6), static_cast<char>(0x80 | (character & 0x3f))};
}

/// Every byte's character in UTF-8.
std::vector<std::string> alphabet() {
    std::vector<std::string> letters;
    for (char32_t character : byte_characters())
        letters.push_back(utf8(character));
    return letters;
}

/// A symbol of a word while it is merged; `token` is -1 once it was taken into its left neighbour.
struct Symbol {
    Token token;
    std::ptrdiff_t before, after;
};

}  // namespace

Tokenizer::Tokenizer(const std::string& folder, const std::string& name) : name_(name) {
    const std::string data = read_regular_file(folder, name, kMaxBytes);
    const Value value = parse_json_object(data, name, Texts::any);
    const Fields fields(value, name);
    auto unsupported = [&](const std::string& what) {
        throw Failure(MFM_ERROR_UNSUPPORTED,
                      name + ": " + what +
                          "; this library reads byte-level BPE without pre-tokenization, ask "
                          "without the report head");
    };
    auto absent = [](const Fields& object, const char* key) {
        const Value* found = object.value().find(key);
        return found == nullptr || found->kind == Value::Kind::null ||
               (found->kind == Value::Kind::boolean && !found->flag) ||
               (found->kind == Value::Kind::text && found->text.empty());
    };
    for (const char* key : {"normalizer", "post_processor"}) {
        if (!absent(fields, key))
            unsupported(std::string("has a ") + key);
    }
    const Fields model = fields.object("model");
    for (const char* key : {"dropout", "unk_token", "continuing_subword_prefix",
                            "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges"}) {
        if (!absent(model, key))
            unsupported(std::string("its model sets ") + key);
    }
    const Fields cut = fields.object("pre_tokenizer");
    if (model.text("type") != "BPE" || cut.text("type") != "ByteLevel" ||
        !absent(cut, "add_prefix_space") || !absent(cut, "use_regex") || !cut.has("use_regex") ||
        fields.object("decoder").text("type") != "ByteLevel")
        unsupported("is of another kind");
    Vocabulary vocabulary;
    read_vocabulary(model, vocabulary);
    read_bytes(vocabulary);
    read_merges(model, vocabulary);
    read_added(fields, vocabulary);
}

void Tokenizer::read_vocabulary(const Fields& model, Vocabulary& vocabulary) {
    const Fields entries = model.object("vocab");
    const auto size = static_cast<std::int64_t>(entries.value().members.size());
    words_.assign(static_cast<std::size_t>(size), "");
    std::vector<bool> taken(words_.size());
    const std::vector<std::string> letters = alphabet();
    std::unordered_map<std::string, char> byte_of;
    for (std::size_t byte = 0; byte < letters.size(); ++byte)
        byte_of[letters[byte]] = static_cast<char>(byte);
    for (const auto& [word, number] : entries.value().members) {
        const auto token = static_cast<std::size_t>(number.integer);
        if (number.kind != Value::Kind::integer || number.integer < 0 || number.integer >= size ||
            taken[token])
            fail_bundle(name_ + " is not a usable tokenizer; export the bundle anew");
        taken[token] = true;
        vocabulary[word] = number.integer;
        for (std::size_t at = 0; at < word.size();) {
            std::size_t length = static_cast<unsigned char>(word[at]) < 0x80 ? 1 : 2;
            auto letter = byte_of.find(word.substr(at, length));
            if (letter == byte_of.end())
                fail_bundle(name_ + " holds a token that is not of bytes; export the bundle anew");
            words_[token] += letter->second;
            at += length;
        }
    }
}

void Tokenizer::read_bytes(const Vocabulary& vocabulary) {
    const std::vector<std::string> letters = alphabet();
    for (std::size_t byte = 0; byte < letters.size(); ++byte) {
        auto found = vocabulary.find(letters[byte]);
        if (found == vocabulary.end())
            fail_bundle(name_ + " lacks a token for some bytes; export the bundle anew");
        of_byte_[byte] = found->second;
    }
}

void Tokenizer::read_merges(const Fields& model, const Vocabulary& vocabulary) {
    const Value* merges = model.value().find("merges");
    if (merges == nullptr || merges->kind != Value::Kind::list)
        model.fail("merges", "must be a list");
    for (const Value& item : merges->items) {
        std::string left, right;
        if (item.kind == Value::Kind::text) {  // the older form: both with a space between
            std::size_t gap = item.text.find(' ');
            left = item.text.substr(0, gap);
            right = gap == std::string::npos ? "" : item.text.substr(gap + 1);
        } else if (item.items.size() == 2) {
            left = item.items[0].text;
            right = item.items[1].text;
        }
        auto one = vocabulary.find(left), other = vocabulary.find(right);
        auto both = vocabulary.find(left + right);
        const auto end = vocabulary.end();
        if (one == end || other == end || both == end)
            fail_bundle(name_ + " merges what its vocabulary lacks; export the bundle anew");
        merges_.insert_or_assign(
            {one->second, other->second},
            Merge{static_cast<std::size_t>(&item - merges->items.data()), both->second});
    }
}

void Tokenizer::read_added(const Fields& fields, const Vocabulary& vocabulary) {
    special_.assign(words_.size(), false);
    if (!fields.has("added_tokens"))
        return;
    for (const Fields& token : fields.objects("added_tokens")) {
        const std::string& content = token.text("content");
        auto found = vocabulary.find(content);
        if (found == vocabulary.end() ||
            found->second != token.integer("id", 0, static_cast<std::int64_t>(words_.size())))
            fail_bundle(name_ + " adds a token that its vocabulary lacks; export the bundle anew");
        special_[static_cast<std::size_t>(found->second)] = token.flag("special");
        added_.push_back(content);
    }
}

std::vector<Token> Tokenizer::encode(const std::string& text) const {
    for (const std::string& content : added_) {
        if (!content.empty() && text.find(content) != std::string::npos)
            fail_bundle("the report grammar holds the text of a special token of " + name_);
    }
    std::vector<Symbol> symbols;
    for (unsigned char byte : text) {
        auto at = static_cast<std::ptrdiff_t>(symbols.size());
        symbols.push_back({of_byte_[byte], at - 1, at + 1});
    }
    const auto end = static_cast<std::ptrdiff_t>(symbols.size());
    // The merge of lowest rank first, of equal ones the leftmost.
    using Candidate = std::tuple<std::size_t, std::ptrdiff_t, Token>;
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> waiting;
    auto look = [&](std::ptrdiff_t left) -> const Merge* {
        if (left < 0 || symbols[left].token < 0 || symbols[left].after >= end)
            return nullptr;
        auto found = merges_.find({symbols[left].token, symbols[symbols[left].after].token});
        return found == merges_.end() ? nullptr : &found->second;
    };
    auto offer = [&](std::ptrdiff_t left) {
        if (const Merge* merge = look(left))
            waiting.emplace(merge->rank, left, merge->token);
    };
    for (std::ptrdiff_t at = 0; at < end; ++at)
        offer(at);
    while (!waiting.empty()) {
        auto [rank, at, token] = waiting.top();
        waiting.pop();
        const Merge* merge = look(at);
        if (merge == nullptr || merge->token != token)
            continue;  // one of the two was merged elsewhere meanwhile
        const std::ptrdiff_t right = symbols[at].after;
        symbols[at].token = token;
        symbols[at].after = symbols[right].after;
        symbols[right].token = -1;
        if (symbols[at].after < end)
            symbols[symbols[at].after].before = at;
        offer(symbols[at].before);
        offer(at);
    }
    std::vector<Token> tokens;
    for (std::ptrdiff_t at = 0; at < end; at = symbols[at].after)
        tokens.push_back(symbols[at].token);
    return tokens;
}

std::string Tokenizer::decode(const std::vector<Token>& tokens) const {
    std::string text;
    for (Token token : tokens) {
        const auto at = static_cast<std::size_t>(token);
        if (!special_[at])
            text += words_[at];
    }
    return text;
}

}  // namespace mammofm
