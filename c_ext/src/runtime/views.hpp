// Names fixed everywhere: the four standard views of screening mammography, and the heads.

#pragma once

#include <array>
#include <cstddef>

#include "mammofm.h"

namespace mammofm {

constexpr std::array<const char*, MFM_VIEW_COUNT> kViewNames = {"L-CC", "L-MLO", "R-CC", "R-MLO"};
constexpr std::array<const char*, MFM_HEAD_COUNT> kHeadNames = {"diagnosis", "localization",
                                                                "prognosis", "report"};
constexpr std::array<const char*, 2> kSideNames = {"L", "R"};
constexpr std::array<const char*, 2> kProjectionNames = {"CC", "MLO"};

/// Of a view in the order of `kViewNames`: 0 left, 1 right; 0 CC, 1 MLO.
constexpr std::size_t side_of(std::size_t view) {
    return view / 2;
}
constexpr std::size_t projection_of(std::size_t view) {
    return view % 2;
}
constexpr std::size_t view_of(std::size_t side, std::size_t projection) {
    return 2 * side + projection;
}

/// One entry per standard view.
template <typename T>
using PerView = std::array<T, MFM_VIEW_COUNT>;

}  // namespace mammofm
