// Where a prepared view lies in its original image: prepared pixels, original pixels, millimetres.
//
// The arithmetic of mammofm_lite/geometry.py, in float64 and in its order.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace mammofm {

/// Kept rows or columns, rising (start, stop), stop exclusive.
using Runs = std::vector<std::pair<std::int64_t, std::int64_t>>;

/// x1, y1, x2, y2.
using Box = std::array<double, 4>;

/// What a coordinate is: on a seam a point and the low edge of a box belong to the run above it,
/// the high edge to the run below it.
enum class Edge { point, low, high };

/// One axis: kept runs of original pixels, glued, then scaled to `model_size` pixels.
class Axis {
  public:
    Axis(const Runs& runs, std::int64_t model_size, bool mirrored);

    /// The original coordinate; outside the crop the first or last run is prolonged.
    double to_original(double model, Edge edge) const;
    /// The prepared coordinate; all of a gap between two runs falls on their seam.
    double to_model(double original) const;

  private:
    const Runs& runs_;
    std::vector<double> offsets_;  // where each run begins in the glued crop, and its end
    double model_size_;
    bool mirrored_;
    double pixels_per_model_pixel_;
};

struct Geometry {
    std::int64_t rows, columns, border_px;
    Runs row_runs, column_runs;
    std::int64_t model_height, model_width;
    bool mirrored;
    std::optional<std::array<double, 2>> pixel_spacing_mm;  // of rows, then of columns

    /// A box of prepared pixels in original ones; one across a seam covers the gap, too.
    Box box_to_original(const Box& box) const;
    /// An original box in mm from the image's top-left corner; the spacing must be known.
    Box box_to_mm(const Box& box) const;
    /// Cut to the original image.
    Box clipped(const Box& box) const;
};

}  // namespace mammofm
