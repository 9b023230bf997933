#include "resize.hpp"

#include <algorithm>
#include <cmath>

namespace mammofm {
namespace {

constexpr double kMinOverlap = 1e-3;  // OpenCV drops a source pixel of which less is covered
constexpr float kFixedOne = 2048;     // 1.0 in the 11-bit weights of OpenCV's bilinear variant

/// Source pixels per target pixel, with the rounding of OpenCV's two divisions.
double scale_of(std::int64_t source, std::int64_t target) {
    return 1.0 / (static_cast<double>(target) / static_cast<double>(source));
}

std::uint8_t rounded(float value) {
    return static_cast<std::uint8_t>(std::nearbyint(value));
}

// -------------------- both axes reduced

/// The source pixels that make one target pixel: `count` from `first`, rising.
struct Taps {
    std::int64_t first;
    std::vector<float> weights;
};

/// Overlap of every source pixel with every target cell, as a share of the cell.
std::vector<Taps> area_taps(std::int64_t source, std::int64_t target) {
    const double scale = scale_of(source, target);
    std::vector<Taps> all(static_cast<std::size_t>(target));
    for (std::int64_t d = 0; d < target; ++d) {
        const double start = static_cast<double>(d) * scale, stop = start + scale;
        const double cell = std::min(scale, static_cast<double>(source) - start);
        const auto last = std::min(static_cast<std::int64_t>(std::floor(stop)), source - 1);
        const auto first = std::min(static_cast<std::int64_t>(std::ceil(start)), last);
        const double before = static_cast<double>(first) - start;
        const double after = stop - static_cast<double>(last);
        Taps& taps = all[static_cast<std::size_t>(d)];
        bool head = before > kMinOverlap && first > 0;
        taps.first = head ? first - 1 : first;
        if (head)
            taps.weights.push_back(static_cast<float>(before / cell));
        for (std::int64_t i = first; i < last; ++i)
            taps.weights.push_back(static_cast<float>(1.0 / cell));
        if (after > kMinOverlap)
            taps.weights.push_back(static_cast<float>(std::min(std::min(after, 1.0), cell) / cell));
    }
    return all;
}

void reduce_row(const std::uint8_t* source, const std::vector<Taps>& taps, float* out) {
    for (std::size_t d = 0; d < taps.size(); ++d) {
        const std::uint8_t* from = source + taps[d].first;
        float total = 0;
        for (float weight : taps[d].weights)
            total += static_cast<float>(*from++) * weight;
        out[d] = total;
    }
}

/// Along x, then along y, float32 sums in the order of the taps, rounded half to even.
GreyImage area_weighted(const GreyImage& image, std::int64_t height, std::int64_t width) {
    const std::vector<Taps> across = area_taps(image.columns, width);
    const std::vector<Taps> down = area_taps(image.rows, height);
    const auto size = static_cast<std::size_t>(width);
    GreyImage out(height, width);
    std::vector<float> total(size), narrow(size);
    std::int64_t held = -1;  // the source row in `narrow`; neighbours share one
    for (std::int64_t y = 0; y < height; ++y) {
        std::fill(total.begin(), total.end(), 0.0f);
        std::int64_t from = down[static_cast<std::size_t>(y)].first;
        for (float weight : down[static_cast<std::size_t>(y)].weights) {
            if (from != held)
                reduce_row(image.row(from), across, narrow.data());
            held = from++;
            for (std::size_t x = 0; x < size; ++x)
                total[x] += narrow[x] * weight;
        }
        std::transform(total.begin(), total.end(), out.row(y), rounded);
    }
    return out;
}

// -------------------- both axes reduced by integers

/// Integer sum of every block, times float32(1 / area), rounded half to even; 2x2 half up.
GreyImage block_mean(const GreyImage& image, std::int64_t step_y, std::int64_t step_x) {
    GreyImage out(image.rows / step_y, image.columns / step_x);
    const auto share = static_cast<float>(1.0 / static_cast<double>(step_y * step_x));
    for (std::int64_t y = 0; y < out.rows; ++y) {
        for (std::int64_t x = 0; x < out.columns; ++x) {
            std::int32_t total = 0;
            for (std::int64_t dy = 0; dy < step_y; ++dy) {
                const std::uint8_t* from = image.row(y * step_y + dy) + x * step_x;
                for (std::int64_t dx = 0; dx < step_x; ++dx)
                    total += from[dx];
            }
            out.row(y)[x] = step_y == 2 && step_x == 2 ? static_cast<std::uint8_t>((total + 2) >> 2)
                                                       : rounded(static_cast<float>(total) * share);
        }
    }
    return out;
}

// -------------------- an axis is enlarged

/// Two neighbouring source pixels and their 11-bit weights.
struct Pair {
    std::int64_t first, second;
    std::int32_t first_weight, second_weight;
};

/// OpenCV's area-like bilinear coordinates: the weight is the part of cell d behind pixel s.
std::vector<Pair> bilinear_pairs(std::int64_t source, std::int64_t target) {
    const double scale = scale_of(source, target);
    const double inverse = static_cast<double>(target) / static_cast<double>(source);
    std::vector<Pair> pairs;
    for (std::int64_t d = 0; d < target; ++d) {
        auto first = static_cast<std::int64_t>(std::floor(static_cast<double>(d) * scale));
        auto share = static_cast<float>(static_cast<double>(d + 1) -
                                        static_cast<double>(first + 1) * inverse);
        share = share <= 0 ? 0.0f : share - std::floor(share);
        if (first >= source - 1)
            share = 0;
        first = std::min(first, source - 1);
        pairs.push_back({first, std::min(first + 1, source - 1),
                         static_cast<std::int32_t>(std::nearbyint((1.0f - share) * kFixedOne)),
                         static_cast<std::int32_t>(std::nearbyint(share * kFixedOne))});
    }
    return pairs;
}

/// Fixed point: exact row sums along x, then two truncating products along y.
GreyImage bilinear(const GreyImage& image, std::int64_t height, std::int64_t width) {
    const std::vector<Pair> across = bilinear_pairs(image.columns, width);
    const std::vector<Pair> down = bilinear_pairs(image.rows, height);
    auto part = [](const std::uint8_t* row, const Pair& x, std::int32_t weight) {
        std::int32_t sum = row[x.first] * x.first_weight + row[x.second] * x.second_weight;
        return ((sum >> 4) * weight) >> 16;
    };
    GreyImage out(height, width);
    for (std::int64_t y = 0; y < height; ++y) {
        const Pair& pair = down[static_cast<std::size_t>(y)];
        const std::uint8_t *upper = image.row(pair.first), *lower = image.row(pair.second);
        for (std::int64_t x = 0; x < width; ++x) {
            const Pair& at = across[static_cast<std::size_t>(x)];
            std::int32_t sum =
                part(upper, at, pair.first_weight) + part(lower, at, pair.second_weight);
            out.row(y)[x] = static_cast<std::uint8_t>((sum + 2) >> 2);
        }
    }
    return out;
}

bool is_whole(double value) {
    return value == std::floor(value);
}

}  // namespace

GreyImage resize_area(const GreyImage& image, std::int64_t height, std::int64_t width) {
    if (image.rows == height && image.columns == width)
        return image;
    const double scale_y = scale_of(image.rows, height), scale_x = scale_of(image.columns, width);
    if (scale_y < 1 || scale_x < 1)
        return bilinear(image, height, width);
    if (is_whole(scale_y) && is_whole(scale_x))
        return block_mean(image, static_cast<std::int64_t>(scale_y),
                          static_cast<std::int64_t>(scale_x));
    return area_weighted(image, height, width);
}

}  // namespace mammofm
