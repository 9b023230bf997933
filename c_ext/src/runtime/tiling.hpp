// The pass that gives an encoder's inverted bottlenecks to our kernels. As mammofm_lite/tiling.py.

#pragma once

#include <cstddef>
#include <memory>
#include <openvino/core/model.hpp>

namespace mammofm {

/// Replace the inverted bottlenecks of a quantized graph by TiledMBConv, in place; what is not
/// exactly of the known form stays. Returns the number of replaced blocks.
std::size_t tile(ov::Model& model);

}  // namespace mammofm
