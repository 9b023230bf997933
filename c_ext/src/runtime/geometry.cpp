#include "geometry.hpp"

#include <algorithm>

namespace mammofm {
namespace {

// How near a seam an edge of a box may come and still lie on it: above the rounding of float32.
constexpr double kTouchPx = 1e-3;

enum class Edge { low, high };

struct Axis {
    const Runs& runs;
    std::int64_t model_size;
    bool mirrored;

    double to_original(double model, Edge edge) const {
        double glued = (mirrored ? static_cast<double>(model_size) - model : model) * scale();
        double at = glued + (edge == Edge::low ? kTouchPx : -kTouchPx);
        std::size_t run = 0;
        double offset = 0;
        // On a seam a low edge belongs to the run above it, a high edge to the run below it.
        while (run + 1 < runs.size()) {
            double next = offset + length(run);
            bool beyond = edge == Edge::low ? next <= at : next < at;
            if (!beyond)
                break;
            offset = next;
            ++run;
        }
        return static_cast<double>(runs[run].first) + (glued - offset);
    }

    double length(std::size_t run) const {
        return static_cast<double>(runs[run].second - runs[run].first);
    }

    double scale() const {
        double total = 0;
        for (std::size_t run = 0; run < runs.size(); ++run)
            total += length(run);
        return total / static_cast<double>(model_size);
    }
};

}  // namespace

Box Geometry::box_to_original(const Box& box) const {
    auto [x1, y1, x2, y2] = box;
    if (mirrored)
        std::swap(x1, x2);
    const Axis x{column_runs, model_width, mirrored}, y{row_runs, model_height, false};
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
