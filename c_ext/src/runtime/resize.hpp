// OpenCV's INTER_AREA for 8-bit grey images, bit for bit, in the three variants that OpenCV chooses
// from. Source: reference facts, section 7; the arithmetic of mammofm_lite/resize.py.

#pragma once

#include <cstdint>
#include <vector>

namespace mammofm {

/// uint8 [rows, columns], rows without a gap.
struct GreyImage {
    std::int64_t rows = 0, columns = 0;
    std::vector<std::uint8_t> pixels;

    GreyImage() = default;
    GreyImage(std::int64_t height, std::int64_t width)
        : rows(height),
          columns(width),
          pixels(static_cast<std::size_t>(height) * static_cast<std::size_t>(width)) {}
    std::uint8_t* row(std::int64_t index) { return pixels.data() + index * columns; }
    const std::uint8_t* row(std::int64_t index) const { return pixels.data() + index * columns; }
};

/// Equal to cv2.resize(image, (width, height), INTER_AREA); nothing may be empty.
GreyImage resize_area(const GreyImage& image, std::int64_t height, std::int64_t width);

}  // namespace mammofm
