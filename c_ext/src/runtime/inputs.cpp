#include "inputs.hpp"

#include <algorithm>
#include <cmath>

#include "boundary.hpp"
#include "failure.hpp"
#include "views.hpp"

namespace mammofm {
namespace {

constexpr std::int32_t kMaxSidePx = 32768;
constexpr std::int64_t kMaxPixels = std::int64_t{1} << 27;
constexpr std::size_t kLongestUid = 64;
constexpr double kMostSpacingMm = 100;  // far beyond any detector; no product of it overflows
constexpr std::uint32_t kAllHeads = (1u << MFM_HEAD_COUNT) - 1;

std::string read_uid(const char* uid, const std::string& name) {
    if (uid == nullptr)
        return "";
    const std::size_t length = strnlen(uid, kLongestUid + 1);
    const std::string text(uid, length);
    const bool fits = length > 0 && length <= kLongestUid &&
                      text.find_first_not_of("0123456789.") == std::string::npos;
    if (!fits)
        fail_usage(name + " is not a UID: 1 to 64 digits and points, or NULL");
    return text;
}

template <typename T>
void check_one_of(T value, T one, T other, const std::string& name) {
    if (value != one && value != other)
        fail_usage(name + " is " + std::to_string(value) + ", allowed: " + std::to_string(one) +
                   ", " + std::to_string(other));
}

StoredPixels read_pixels(const mfm_view& view, const std::string& where) {
    if (view.pixels == nullptr)
        fail_usage(where + "pixels is NULL");
    if (view.rows < 1 || view.columns < 1 || view.rows > kMaxSidePx || view.columns > kMaxSidePx ||
        std::int64_t{view.rows} * view.columns > kMaxPixels)
        fail_usage(where + std::to_string(view.rows) + " rows x " + std::to_string(view.columns) +
                   " columns is not an image");
    check_one_of(view.bits_allocated, 8, 16, where + "bits_allocated");
    check_one_of(view.is_signed, 0, 1, where + "is_signed");
    const std::size_t row_bytes =
        static_cast<std::size_t>(view.columns) * static_cast<std::size_t>(view.bits_allocated / 8);
    const std::size_t stride = view.stride_bytes != 0 ? view.stride_bytes : row_bytes;
    if (stride < row_bytes || stride > SIZE_MAX / static_cast<std::size_t>(view.rows))
        fail_usage(where + "stride_bytes is " + std::to_string(stride) + ", a row has " +
                   std::to_string(row_bytes));
    return {static_cast<const std::uint8_t*>(view.pixels),
            view.rows,
            view.columns,
            stride,
            view.bits_allocated / 8,
            view.is_signed == 1};
}

/// Of a value beyond nothing says what it means: an overlay, noise, or a wrong bits_stored.
void check_bits(const mfm_view& view, const StoredPixels& stored, const std::string& where) {
    const int bits = view.bits_stored != 0 ? view.bits_stored : view.bits_allocated;
    if (bits < 8 || bits > view.bits_allocated)
        fail_usage(where + "bits_stored is " + std::to_string(bits) + ", allowed 8 to " +
                   std::to_string(view.bits_allocated));
    if (bits == view.bits_allocated)
        return;
    auto [low, high] = stored.extremes();
    const std::int32_t least = stored.is_signed ? -(1 << (bits - 1)) : 0;
    const std::int32_t most = (stored.is_signed ? 1 << (bits - 1) : 1 << bits) - 1;
    if (low < least || high > most)
        fail_usage(where + "stored values from " + std::to_string(low) + " to " +
                   std::to_string(high) + " do not fit into bits_stored " + std::to_string(bits) +
                   "; mask the other bits");
}

std::optional<std::array<double, 2>> read_spacing(const mfm_view& view, const std::string& where) {
    const double row = view.row_spacing_mm, column = view.column_spacing_mm;
    if (row == 0 && column == 0)
        return {};
    if (!(row > 0 && column > 0 && row <= kMostSpacingMm && column <= kMostSpacingMm))
        fail_usage(where +
                   "row_spacing_mm and column_spacing_mm must be positive and at most 100, or "
                   "both 0");
    return std::array<double, 2>{row, column};
}

std::optional<std::pair<std::int32_t, std::int32_t>> read_padding(const mfm_view& view,
                                                                  const std::string& where) {
    if (view.has_padding == 0)
        return {};
    if (view.padding_low > view.padding_high)
        fail_usage(where + "padding_low is above padding_high");
    return std::make_pair(view.padding_low, view.padding_high);
}

ViewInput read_view(const mfm_view* given, std::size_t index) {
    const std::string where = "view " + std::to_string(index) + ": ";
    if (given == nullptr)
        fail_usage("view " + std::to_string(index) + " is NULL");
    const mfm_view view = read_struct(given, "mfm_view");
    const mfm_laterality left = MFM_LEFT, right = MFM_RIGHT;
    check_one_of(view.laterality, left, right, where + "laterality");
    check_one_of<mfm_projection>(view.projection, MFM_CC, MFM_MLO, where + "projection");
    check_one_of<mfm_photometric>(view.photometric, MFM_MONOCHROME1, MFM_MONOCHROME2,
                                  where + "photometric");
    ViewInput input;
    input.stored = read_pixels(view, where);
    check_bits(view, input.stored, where);
    input.view = view_of(view.laterality == MFM_RIGHT ? 1 : 0, view.projection == MFM_MLO ? 1 : 0);
    input.photometric = view.photometric;
    input.rescale_slope = view.rescale_slope == 0 ? 1 : view.rescale_slope;
    input.rescale_intercept = view.rescale_intercept;
    input.pixel_spacing_mm = read_spacing(view, where);
    input.sop_instance_uid = read_uid(view.sop_instance_uid, where + "sop_instance_uid");
    input.padding = read_padding(view, where);
    input.hidden = view.hidden;
    input.hidden_stride_bytes = view.hidden_stride_bytes != 0
                                    ? view.hidden_stride_bytes
                                    : static_cast<std::size_t>(view.columns);
    if (input.hidden_stride_bytes < static_cast<std::size_t>(view.columns) ||
        input.hidden_stride_bytes > SIZE_MAX / static_cast<std::size_t>(view.rows))
        fail_usage(where + "hidden_stride_bytes is less than a row");
    return input;
}

}  // namespace

mfm_run_options read_run_options(const mfm_run_options* options) {
    return options != nullptr ? read_struct(options, "mfm_run_options") : mfm_run_options{};
}

std::uint32_t read_heads(std::uint32_t heads, const Bundle& bundle) {
    if ((heads & ~kAllHeads) != 0)
        fail_usage("heads has a bit that is no head; combine MFM_HEAD_BIT of heads");
    if (heads != 0)
        return heads;
    for (std::size_t head = 0; head < kHeadNames.size(); ++head)
        heads |= bundle.has(head) ? MFM_HEAD_BIT(head) : 0;
    return heads;
}

StudyInput read_study(const mfm_study* given) {
    require(given, "study");
    const mfm_study study = read_struct(given, "mfm_study");
    require(study.views, "mfm_study: views");
    if (study.view_count < 1 || study.view_count > MFM_VIEW_COUNT)
        fail_usage("view_count is " + std::to_string(study.view_count) + ", allowed 1 to 4");
    StudyInput input;
    input.study_instance_uid = read_uid(study.study_instance_uid, "study_instance_uid");
    PerView<bool> taken = {};
    for (std::size_t i = 0; i < study.view_count; ++i) {
        input.views.push_back(read_view(study.views[i], i));
        bool& mine = taken[input.views.back().view];
        if (mine)
            fail_usage(std::string("two views are ") + kViewNames[input.views.back().view] +
                       "; choose one of them");
        mine = true;
    }
    return input;
}

}  // namespace mammofm
