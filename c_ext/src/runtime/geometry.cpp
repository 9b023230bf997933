#include "geometry.hpp"

#include <algorithm>

namespace mammofm {
namespace {

// A box edge this near a seam lies on it: above the rounding of float32 boxes. For points, the
// rounding of float64 only.
constexpr double kTouchPx = 1e-3;
constexpr double kPointShiftPx = 1e-9;

double seam_shift(Edge edge) {
    return edge == Edge::point ? kPointShiftPx : edge == Edge::low ? kTouchPx : -kTouchPx;
}

}  // namespace

Axis::Axis(const Runs& runs, std::int64_t model_size, bool mirrored)
    : runs_(runs), offsets_{0}, model_size_(static_cast<double>(model_size)), mirrored_(mirrored) {
    for (auto [start, stop] : runs)
        offsets_.push_back(offsets_.back() + static_cast<double>(stop - start));
    pixels_per_model_pixel_ = offsets_.back() / model_size_;
}

double Axis::to_original(double model, Edge edge) const {
    const double glued = (mirrored_ ? model_size_ - model : model) * pixels_per_model_pixel_;
    const double at = glued + seam_shift(edge);
    const auto first = offsets_.begin() + 1, last = offsets_.end() - 1;  // the seams
    const auto seam =
        edge == Edge::high ? std::lower_bound(first, last, at) : std::upper_bound(first, last, at);
    const auto run = static_cast<std::size_t>(seam - first);
    return static_cast<double>(runs_[run].first) + (glued - offsets_[run]);
}

double Axis::to_model(double original) const {
    std::size_t run = 0;
    while (run + 1 < runs_.size() && static_cast<double>(runs_[run + 1].first) <= original)
        ++run;
    double glued = offsets_[run] + (original - static_cast<double>(runs_[run].first));
    if (run + 1 < runs_.size())
        glued = std::min(glued, offsets_[run + 1]);
    const double model = glued / pixels_per_model_pixel_;
    return mirrored_ ? model_size_ - model : model;
}

Box Geometry::box_to_original(const Box& box) const {
    auto [x1, y1, x2, y2] = box;
    if (mirrored)
        std::swap(x1, x2);
    const Axis x(column_runs, model_width, mirrored), y(row_runs, model_height, false);
    return {x.to_original(x1, Edge::low), y.to_original(y1, Edge::low),
            x.to_original(x2, Edge::high), y.to_original(y2, Edge::high)};
}

Box Geometry::box_to_mm(const Box& box) const {
    auto [row_mm, column_mm] = *pixel_spacing_mm;
    return {box[0] * column_mm, box[1] * row_mm, box[2] * column_mm, box[3] * row_mm};
}

Box Geometry::clipped(const Box& box) const {
    auto cut = [](double value, std::int64_t limit) {
        return std::clamp(value, 0.0, static_cast<double>(limit));
    };
    return {cut(box[0], columns), cut(box[1], rows), cut(box[2], columns), cut(box[3], rows)};
}

}  // namespace mammofm
