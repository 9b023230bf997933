// From stored pixel values to the 8-bit picture that the encoders take, as the reference does it.
//
// Source: reference facts, section 7, steps 1 to 6, and the added step for pixels that the file
// itself calls no image; the rules and the float32 arithmetic of mammofm_lite/prepare.py, bit for
// bit.

#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "geometry.hpp"
#include "mammofm.h"
#include "resize.hpp"

namespace mammofm {

/// The constants of a bundle's preprocessing.
struct PreprocessingSpec {
    std::int64_t height, width;
    std::int64_t border_px;
    int background_threshold;  // grey levels up to this one count as background in the crop
    bool mirror_right;         // right breasts are flipped left to right
};

/// Stored pixels, integers of 8, 16 or 32 bits, read row by row.
struct StoredPixels {
    const std::uint8_t* data;
    std::int64_t rows, columns;
    std::size_t stride_bytes;
    int bytes;  // of one pixel: 1, 2 or 4 (then signed)
    bool is_signed;

    /// Columns `start` to `stop` of a row as integers.
    void row(std::int64_t index, std::int64_t start, std::int64_t stop, std::int32_t* out) const;
    /// Least and greatest value of all pixels; there must be one.
    std::pair<std::int32_t, std::int32_t> extremes() const;
};

/// A view as the caller gave it, checked by `c_api.cpp`.
struct ViewInput {
    StoredPixels stored;
    std::size_t view;
    mfm_photometric photometric;
    double rescale_slope, rescale_intercept;
    std::optional<std::array<double, 2>> pixel_spacing_mm;
    std::string sop_instance_uid;
    std::optional<std::pair<std::int32_t, std::int32_t>> padding;
    const std::uint8_t* hidden;
    std::size_t hidden_stride_bytes;
};

/// `deviations` holds codes out of mammofm_lite/deviations.py.
struct PreparedView {
    GreyImage image;
    Geometry geometry;
    std::vector<std::string> deviations;
};

/// Rows and columns that the reference keeps of a picture, in this order.
std::pair<Runs, Runs> crop_runs(const GreyImage& grey, int background_threshold);

/// Raises MFM_ERROR_STUDY where the image makes no picture.
PreparedView prepare_view(const ViewInput& input, const PreprocessingSpec& spec);

}  // namespace mammofm
