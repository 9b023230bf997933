// One view answered before and after the host program has set locales that write 1.5 as "1,5", in C
// and in C++. Arguments: bundle, pixels (1147 x 957, 16 bits). Prints whether C has such a locale
// here, and both answers.

#include <mammofm.h>

#include <clocale>
#include <fstream>
#include <iostream>
#include <iterator>
#include <locale>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
};

void check(mfm_status status) {
    if (status != MFM_OK)
        throw std::runtime_error(mfm_last_error());
}

std::string answer(const char* bundle, const std::vector<char>& pixels) {
    mfm_model* model = nullptr;
    check(mfm_model_open(bundle, nullptr, &model));
    mfm_view view;
    MFM_INIT(view);
    view.pixels = pixels.data();
    view.rows = 1147;
    view.columns = 957;
    view.bits_allocated = 16;
    view.laterality = MFM_LEFT;
    view.projection = MFM_CC;
    view.photometric = MFM_MONOCHROME2;
    view.row_spacing_mm = view.column_spacing_mm = 0.2;
    const mfm_view* views[] = {&view};
    mfm_study study;
    MFM_INIT(study);
    study.views = views;
    study.view_count = 1;
    mfm_result* result = nullptr;
    check(mfm_model_run(model, &study, nullptr, &result));
    const char* text = nullptr;
    check(mfm_result_json(result, &text, nullptr));
    const std::string json = text;
    mfm_result_destroy(result);
    mfm_model_destroy(model);
    return json;
}

}  // namespace

int main(int, char** arguments) {
    std::ifstream file(arguments[2], std::ios::binary);
    const std::vector<char> pixels((std::istreambuf_iterator<char>(file)), {});
    const std::string before = answer(arguments[1], pixels);
    std::locale::global(std::locale(std::locale::classic(), new Comma));
    const bool has = std::setlocale(LC_ALL, "de_DE.UTF-8") != nullptr;
    const std::string after = answer(arguments[1], pixels);
    std::cout << (has ? "de_DE\n" : "none\n") << before << '\0' << after;
}
