// Two threads of one console from C++: both use one model, a third call is cancelled.
//
//   g++ -std=c++17 -pthread two_threads.cpp $(mammofm-lite config --cflags --libs) -o two_threads
//   ./two_threads BUNDLE ROWS COLUMNS FILE     (16-bit pixels of one left CC view)

#include <mammofm.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

/// A status that is not MFM_OK as an exception of this program.
void check(mfm_status status) {
    if (status != MFM_OK)
        throw std::runtime_error(std::string(mfm_status_name(status)) + ": " + mfm_last_error());
}

struct Destroy {
    void operator()(mfm_model* model) const { mfm_model_destroy(model); }
    void operator()(mfm_result* result) const { mfm_result_destroy(result); }
};
using Model = std::unique_ptr<mfm_model, Destroy>;
using Result = std::unique_ptr<mfm_result, Destroy>;

Model open_model(const char* path) {
    mfm_model_options options;
    MFM_INIT(options);
    options.log = [](void*, mfm_log_level, const char* line) { std::cerr << line << '\n'; };
    mfm_model* model = nullptr;
    check(mfm_model_open(path, &options, &model));
    return Model(model);
}

std::string json_of(mfm_model* model, const mfm_study& study) {
    mfm_result* found = nullptr;
    check(mfm_model_run(model, &study, nullptr, &found));
    const Result result(found);
    const char* text = nullptr;
    std::size_t length = 0;
    check(mfm_result_json(result.get(), &text, &length));
    return {text, length};
}

/// Ends the run at the third question; the model stays usable.
mfm_status run_cancelled(mfm_model* model, const mfm_study& study) {
    int asked = 0;
    mfm_run_options options;
    MFM_INIT(options);
    options.user = &asked;
    options.cancelled = [](void* user) { return ++*static_cast<int*>(user) == 3 ? 1 : 0; };
    mfm_result* result = nullptr;
    return mfm_model_run(model, &study, &options, &result);
}

int run(char** arguments) {
    const Model model = open_model(arguments[1]);
    std::ifstream file(arguments[4], std::ios::binary);
    const std::vector<char> pixels((std::istreambuf_iterator<char>(file)), {});
    mfm_view view;
    MFM_INIT(view);
    view.rows = std::atoi(arguments[2]);
    view.columns = std::atoi(arguments[3]);
    if (pixels.size() != 2 * static_cast<std::size_t>(view.rows) * view.columns)
        throw std::runtime_error("the file has another size than the image");
    view.pixels = pixels.data();
    view.bits_allocated = 16;
    view.laterality = MFM_LEFT;
    view.projection = MFM_CC;
    view.photometric = MFM_MONOCHROME2;
    const mfm_view* views[] = {&view};
    mfm_study study;
    MFM_INIT(study);
    study.views = views;
    study.view_count = 1;

    std::string first, second;
    std::thread other([&] { second = json_of(model.get(), study); });
    first = json_of(model.get(), study);
    other.join();
    if (first != second)
        throw std::runtime_error("two threads had two answers");
    if (run_cancelled(model.get(), study) != MFM_ERROR_CANCELLED)
        throw std::runtime_error("not cancelled");
    std::cerr << mfm_last_error() << '\n';
    std::cout << json_of(model.get(), study);
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 5) {
        std::cerr << "usage: two_threads BUNDLE ROWS COLUMNS FILE\n";
        return MFM_ERROR_USAGE;
    }
    try {
        return run(arguments);
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
