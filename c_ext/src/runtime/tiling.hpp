// The pass that gives an encoder's inverted bottlenecks to our kernels. As mammofm_lite/tiling.py.

#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <openvino/core/model.hpp>
#include <set>
#include <vector>

namespace mammofm {

/// Blocks to replace: quantized ones, and others.
struct TiledPrecisions {
    bool int8 = true, float32 = true;
};

/// Replace the inverted bottlenecks of a graph by TiledMBConv, in place; what is not exactly of the
/// known form stays. Returns the number of replaced blocks.
std::size_t tile(ov::Model& model, const TiledPrecisions& precisions);

// -------------------- the parts of the pass

/// A block of a known form.
struct TiledBlock {
    using Node = std::shared_ptr<ov::Node>;

    Node entry;              ///< what it reads, which may be the exit of another
    Node exit;               ///< what the next block reads
    Node raw;                ///< what others read
    std::set<Node> readers;  ///< the operations of this block that read its entry
    std::function<ov::Output<ov::Node>()> first_input;  ///< where no other block comes before it
    /// The operation, which gives planes of floats too if `emit`.
    std::function<Node(const ov::Output<ov::Node>& x, bool emit)> make;
};

/// All of them, first to last.
std::vector<TiledBlock> int8_blocks(const ov::Model& model);
std::vector<TiledBlock> f32_blocks(const ov::Model& model);

}  // namespace mammofm
