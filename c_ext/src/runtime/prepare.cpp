#include "prepare.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "failure.hpp"
#include "views.hpp"

namespace mammofm {
namespace {

constexpr std::int64_t kMinInsidePx = 8;  // nothing smaller is a mammogram
constexpr double kLeastShown = 0.01;      // part of the image that padding and shutter must leave

constexpr std::int64_t kLargestTable = 1 << 16;

using Flags = std::vector<std::uint8_t>;

template <typename T>
void load(const std::uint8_t* from, std::int64_t count, std::int32_t* out) {
    for (std::int64_t i = 0; i < count; ++i) {
        T value;  // rows need not be aligned
        std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
        out[i] = value;
    }
}

struct Extremes {
    std::int32_t low = std::numeric_limits<std::int32_t>::max();
    std::int32_t high = std::numeric_limits<std::int32_t>::min();
    std::int64_t count = 0;

    void add(std::int32_t value) {
        low = std::min(low, value);
        high = std::max(high, value);
        ++count;
    }
};

// -------------------- steps 1, 3 and 4: grey levels

struct Stretch {
    double slope, intercept;
    bool inverted;
    int background_threshold;

    bool falling() const { return (slope < 0) != inverted; }
};

/// The way from a stored value to 0..255, every step in float32 as the reference takes it.
struct GreyScale {
    float slope, intercept, top, low, span;
    bool inverted;

    float apply(std::int32_t stored) const {
        auto value = static_cast<float>(stored);
        if (slope != 1)
            value *= slope;
        if (intercept != 0)
            value += intercept;
        if (inverted)
            value = top - value;
        value -= low;
        value /= span;
        value *= 255.0f;
        return value;
    }
    std::uint8_t level(std::int32_t stored) const {
        return static_cast<std::uint8_t>(apply(stored));
    }
};

/// From the stored extremes: every step is monotone, also when it rounds.
GreyScale grey_scale(std::int32_t least, std::int32_t most, const Stretch& stretch) {
    const auto slope = static_cast<float>(stretch.slope);
    const auto intercept = static_cast<float>(stretch.intercept);
    float one = static_cast<float>(least) * slope + intercept;
    float other = static_cast<float>(most) * slope + intercept;
    const float top = std::max(one, other);
    if (stretch.inverted) {
        one = top - one;
        other = top - other;
    }
    const float low = std::min(one, other), span = std::max(one, other) - low;
    const std::string values =
        "stored values " + std::to_string(least) + " to " + std::to_string(most);
    if (!std::isfinite(span) || std::isnan(one) || std::isnan(other))
        fail_study(values + " with RescaleSlope " + general(stretch.slope) +
                   " and RescaleIntercept " + general(stretch.intercept) +
                   " leave the float32 range");
    if (span == 0 && least == most)
        fail_study("the image is constant (stored value " + std::to_string(least) +
                   " in every pixel inside the border); there is nothing to analyse");
    if (span == 0)
        fail_study("the image is constant after the rescale (" + values + ")");
    return {slope, intercept, top, low, span, stretch.inverted};
}

// -------------------- the image inside the border

/// What of a view is left inside the border, and which of its pixels are no image.
class Inside {
  public:
    Inside(const ViewInput& input, std::int64_t border)
        : input_(input),
          border_(border),
          rows_(input.stored.rows - 2 * border),
          columns_(input.stored.columns - 2 * border) {}

    std::int64_t rows() const { return rows_; }
    std::int64_t columns() const { return columns_; }
    bool has_masks() const { return input_.padding || input_.hidden != nullptr; }

    void row(std::int64_t index, std::int32_t* out) const {
        input_.stored.row(index + border_, border_, border_ + columns_, out);
    }

    /// Of every pixel of a row 0, or which mask covers it: 1 padding, 2 the shutter.
    void masks(std::int64_t index, const std::int32_t* values, std::uint8_t* out) const {
        std::fill(out, out + columns_, std::uint8_t{0});
        if (input_.hidden != nullptr) {
            const std::uint8_t* hidden =
                input_.hidden +
                static_cast<std::size_t>(index + border_) * input_.hidden_stride_bytes + border_;
            for (std::int64_t x = 0; x < columns_; ++x)
                out[x] = hidden[x] != 0 ? 2 : 0;
        }
        if (input_.padding) {
            auto [low, high] = *input_.padding;
            for (std::int64_t x = 0; x < columns_; ++x)
                out[x] = low <= values[x] && values[x] <= high ? 1 : out[x];
        }
    }

    template <typename Visit>
    void each_row(Visit visit) const {
        std::vector<std::int32_t> values(static_cast<std::size_t>(columns_));
        Flags covered(values.size());
        for (std::int64_t y = 0; y < rows_; ++y) {
            row(y, values.data());
            if (has_masks())
                masks(y, values.data(), covered.data());
            visit(y, values, covered);
        }
    }

  private:
    const ViewInput& input_;
    std::int64_t border_, rows_, columns_;
};

/// Extremes of the pixels that no mask covers, of padding, and of the shutter.
std::array<Extremes, 3> extremes_of(const Inside& inside) {
    std::array<Extremes, 3> found;
    inside.each_row([&](std::int64_t, const auto& values, const Flags& covered) {
        if (!inside.has_masks()) {
            auto [low, high] = std::minmax_element(values.begin(), values.end());
            found[0].add(*low);
            found[0].add(*high);
            return;
        }
        for (std::size_t x = 0; x < values.size(); ++x)
            found[covered[x]].add(values[x]);
    });
    return found;
}

// -------------------- before step 3: pixels that are no image

/// By the extremes of each mask's pixels and of the image that is shown: 0, or the mask.
int most_misleading(const std::array<Extremes, 3>& ends, const std::array<bool, 3>& left,
                    const Stretch& stretch) {
    std::int32_t least = ends[0].low, most = ends[0].high;
    for (int mask : {1, 2}) {
        if (left[mask]) {
            least = std::min(least, ends[mask].low);
            most = std::max(most, ends[mask].high);
        }
    }
    if ((!left[1] && !left[2]) || least == most)
        return 0;
    const GreyScale scale = grey_scale(least, most, stretch);
    for (int mask : {1, 2}) {
        int brightest =
            left[mask] ? std::max(scale.level(ends[mask].low), scale.level(ends[mask].high)) : 0;
        if (left[mask] && brightest > stretch.background_threshold)
            return mask;
    }
    std::int64_t shown = std::int64_t{ends[0].high} - ends[0].low;
    if (2 * shown < std::int64_t{most} - least) {
        for (int mask : {1, 2}) {
            if (left[mask] && (ends[mask].low == least || ends[mask].high == most))
                return mask;
        }
    }
    return 0;
}

/// The masks that mislead, one after the other, each seen on the scale that the others leave.
std::array<bool, 3> misleading(const std::array<Extremes, 3>& ends, const Stretch& stretch) {
    std::array<bool, 3> left = {false, ends[1].count > 0, ends[2].count > 0};
    if (ends[0].count == 0)
        return left;
    std::array<bool, 3> applied = {};
    while (int mask = most_misleading(ends, left, stretch)) {
        applied[static_cast<std::size_t>(mask)] = true;
        left[static_cast<std::size_t>(mask)] = false;
    }
    return applied;
}

/// What the grey levels are made of: extremes of the image, and the masks that are set to the
/// darkest of its values.
struct Shown {
    std::int32_t least, most;
    std::array<bool, 3> applied = {};
    std::int32_t darkest = 0;
};

Extremes joined(const std::array<Extremes, 3>& ends, const std::array<bool, 3>& without) {
    Extremes all;
    for (std::size_t i = 0; i < ends.size(); ++i) {
        if (without[i] || ends[i].count == 0)
            continue;
        all.low = std::min(all.low, ends[i].low);
        all.high = std::max(all.high, ends[i].high);
        all.count += ends[i].count;
    }
    return all;
}

Shown shown_of(const Inside& inside, const Stretch& stretch) {
    const std::array<Extremes, 3> ends = extremes_of(inside);
    const Extremes all = joined(ends, {});
    if (ends[1].count + ends[2].count == 0)
        return {all.low, all.high};
    grey_scale(all.low, all.high, stretch);  // refuses what is constant
    const std::array<bool, 3> applied = misleading(ends, stretch);
    if (!applied[1] && !applied[2])
        return {all.low, all.high};
    std::int64_t covered = (applied[1] ? ends[1].count : 0) + (applied[2] ? ends[2].count : 0);
    auto size = static_cast<double>(inside.rows() * inside.columns());
    if (static_cast<double>(covered) > (1 - kLeastShown) * size)
        fail_study("pixel padding and display shutter cover the whole image");
    const Extremes others = joined(ends, applied);
    if (others.low == others.high)
        fail_study("the image is constant apart from pixel padding and display shutter");
    return {others.low, others.high, applied, stretch.falling() ? others.high : others.low};
}

/// The level of every value, unless they are too many.
std::vector<std::uint8_t> level_table(const GreyScale& scale, const Shown& shown) {
    const std::int64_t count = std::int64_t{shown.most} - shown.least + 1;
    if (count > kLargestTable)
        return {};
    std::vector<std::uint8_t> table(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < table.size(); ++i)
        table[i] = scale.level(shown.least + static_cast<std::int32_t>(i));
    return table;
}

GreyImage grey_levels(const Inside& inside, const Shown& shown, const Stretch& stretch) {
    const GreyScale scale = grey_scale(shown.least, shown.most, stretch);
    const std::vector<std::uint8_t> table = level_table(scale, shown);
    const bool masked = shown.applied[1] || shown.applied[2];
    GreyImage grey(inside.rows(), inside.columns());
    inside.each_row([&](std::int64_t y, auto& values, const Flags& covered) {
        std::uint8_t* out = grey.row(y);
        for (std::size_t x = 0; x < values.size(); ++x) {
            bool dark = masked && shown.applied[covered[x]];
            const std::int32_t value = dark ? shown.darkest : values[x];
            out[x] = table.empty() ? scale.level(value)
                                   : table[static_cast<std::size_t>(value - shown.least)];
        }
    });
    return grey;
}

// -------------------- step 5: the breast

/// The central part along an axis: from its middle, two fifths to either side.
std::pair<std::int64_t, std::int64_t> central(std::int64_t size) {
    auto reach = static_cast<std::int64_t>(0.4 * static_cast<double>(size));
    return {size / 2 - reach, size / 2 + reach};
}

/// Distance of the neighbours that are off, less one; at the picture's edge the run's own last
/// index stands in (facts 7.5).
std::int64_t run_length(std::int64_t start, std::int64_t stop, std::int64_t size) {
    return std::min(stop, size - 1) - std::max(start - 1, std::int64_t{0}) - 1;
}

/// The longest runs, by the reference's measure; everything where nothing is on.
Runs kept_runs(const Flags& on) {
    const auto size = static_cast<std::int64_t>(on.size());
    Runs runs;
    for (std::int64_t i = 0; i < size; ++i) {
        if (!on[static_cast<std::size_t>(i)])
            continue;
        if (!runs.empty() && runs.back().second == i)
            ++runs.back().second;
        else
            runs.emplace_back(i, i + 1);
    }
    std::int64_t longest = -1;
    for (auto [start, stop] : runs)
        longest = std::max(longest, run_length(start, stop, size));
    if (longest < 0)
        return {{0, size}};
    Runs kept;
    for (auto [start, stop] : runs) {
        if (run_length(start, stop, size) == longest)
            kept.emplace_back(start, stop);
    }
    return kept;
}

/// Whether values differ once background is 0; setting it keeps their order. Of no values at all
/// the reference's deviation is NaN, which is not zero either.
bool varies(int low, int high, int background) {
    return low > high || (low <= background ? 0 : low) != (high <= background ? 0 : high);
}

Flags columns_that_vary(const GreyImage& grey, int background) {
    auto [start, stop] = central(grey.rows);
    std::vector<std::uint8_t> low(static_cast<std::size_t>(grey.columns), 255);
    std::vector<std::uint8_t> high(low.size(), 0);
    for (std::int64_t y = start; y < stop; ++y) {
        const std::uint8_t* row = grey.row(y);
        for (std::size_t x = 0; x < low.size(); ++x) {
            low[x] = std::min(low[x], row[x]);
            high[x] = std::max(high[x], row[x]);
        }
    }
    Flags on(low.size(), 1);
    for (std::size_t x = 0; x < on.size() && start < stop; ++x)
        on[x] = varies(low[x], high[x], background);
    return on;
}

Flags rows_that_vary(const GreyImage& grey, int background) {
    auto [start, stop] = central(grey.columns);
    Flags on(static_cast<std::size_t>(grey.rows), 1);
    for (std::int64_t y = 0; y < grey.rows && start < stop; ++y) {
        auto [low, high] = std::minmax_element(grey.row(y) + start, grey.row(y) + stop);
        on[static_cast<std::size_t>(y)] = varies(*low, *high, background);
    }
    return on;
}

/// The kept rows and columns.
GreyImage glued(const GreyImage& grey, const Runs& row_runs, const Runs& column_runs) {
    auto total = [](const Runs& runs) {
        std::int64_t sum = 0;
        for (auto [start, stop] : runs)
            sum += stop - start;
        return sum;
    };
    GreyImage out(total(row_runs), total(column_runs));
    std::uint8_t* to = out.pixels.data();
    for (auto [top, bottom] : row_runs) {
        for (std::int64_t y = top; y < bottom; ++y) {
            for (auto [start, stop] : column_runs)
                to = std::copy(grey.row(y) + start, grey.row(y) + stop, to);
        }
    }
    return out;
}

Runs shifted(Runs runs, std::int64_t offset) {
    for (auto& [start, stop] : runs) {
        start += offset;
        stop += offset;
    }
    return runs;
}

void check_image(const ViewInput& input, std::int64_t border) {
    const std::int64_t least = 2 * border + kMinInsidePx;
    const StoredPixels& stored = input.stored;
    if (std::min(stored.rows, stored.columns) < least)
        fail_study("the image is " + std::to_string(stored.rows) + " rows x " +
                   std::to_string(stored.columns) +
                   " columns, too small for a mammogram; at least " + std::to_string(least) +
                   " x " + std::to_string(least) + " are needed");
    if (input.rescale_slope == 0 || !std::isfinite(input.rescale_slope) ||
        !std::isfinite(input.rescale_intercept))
        fail_study("RescaleSlope is " + general(input.rescale_slope) + " and RescaleIntercept " +
                   general(input.rescale_intercept) +
                   "; the slope must be non-zero and both finite");
}

void mirror(GreyImage& image) {
    for (std::int64_t y = 0; y < image.rows; ++y)
        std::reverse(image.row(y), image.row(y) + image.columns);
}

}  // namespace

void StoredPixels::row(std::int64_t index, std::int64_t start, std::int64_t stop,
                       std::int32_t* out) const {
    const std::uint8_t* from = data + static_cast<std::size_t>(index) * stride_bytes +
                               static_cast<std::size_t>(start) * static_cast<std::size_t>(bytes);
    const std::int64_t count = stop - start;
    if (bytes == 4)
        load<std::int32_t>(from, count, out);
    else if (bytes == 2)
        is_signed ? load<std::int16_t>(from, count, out) : load<std::uint16_t>(from, count, out);
    else
        is_signed ? load<std::int8_t>(from, count, out) : load<std::uint8_t>(from, count, out);
}

std::pair<std::int32_t, std::int32_t> StoredPixels::extremes() const {
    std::vector<std::int32_t> values(static_cast<std::size_t>(columns));
    std::int32_t low = std::numeric_limits<std::int32_t>::max();
    std::int32_t high = std::numeric_limits<std::int32_t>::min();
    for (std::int64_t y = 0; y < rows; ++y) {
        row(y, 0, columns, values.data());
        for (std::int32_t value : values) {
            low = std::min(low, value);
            high = std::max(high, value);
        }
    }
    return {low, high};
}

std::pair<Runs, Runs> crop_runs(const GreyImage& grey, int background_threshold) {
    const Runs columns = kept_runs(columns_that_vary(grey, background_threshold));
    const GreyImage cut = glued(grey, {{0, grey.rows}}, columns);
    return {kept_runs(rows_that_vary(cut, background_threshold)), columns};
}

PreparedView prepare_view(const ViewInput& input, const PreprocessingSpec& spec) {
    check_image(input, spec.border_px);
    const Stretch stretch{input.rescale_slope, input.rescale_intercept,
                          input.photometric == MFM_MONOCHROME1, spec.background_threshold};
    const Inside inside(input, spec.border_px);
    const Shown shown = shown_of(inside, stretch);
    const GreyImage grey = grey_levels(inside, shown, stretch);
    const auto [rows, columns] = crop_runs(grey, spec.background_threshold);
    PreparedView view;
    view.image = resize_area(glued(grey, rows, columns), spec.height, spec.width);
    auto [low, high] = std::minmax_element(view.image.pixels.begin(), view.image.pixels.end());
    if (*low == *high)  // the encoder would divide by zero
        fail_study("the prepared view is constant; the image shows nothing to analyse");
    const bool mirrored = spec.mirror_right && side_of(input.view) == 1;
    if (mirrored)
        mirror(view.image);
    view.geometry = {input.stored.rows,
                     input.stored.columns,
                     spec.border_px,
                     shifted(rows, spec.border_px),
                     shifted(columns, spec.border_px),
                     spec.height,
                     spec.width,
                     mirrored,
                     input.pixel_spacing_mm};
    if (shown.applied[1])
        view.deviations.push_back("pixel_padding_masked");
    if (shown.applied[2])
        view.deviations.push_back("display_shutter_masked");
    return view;
}

}  // namespace mammofm
