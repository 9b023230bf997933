// What the operations TiledMBConv and TiledMBConvF32 share: sizes from attributes and shapes, and
// what is refused.
#pragma once

#include <cstdint>
#include <openvino/op/op.hpp>
#include <vector>

#include "mbconv_work.hpp"

namespace mammofm {

/// Of a picture or of a tensor, without its batch of one.
struct MbConvSize {
    std::int64_t channels, height, width;
};

/// The attributes that say what a block computes; see TiledMBConv.
struct MbConvForm {
    std::int64_t expand = 1, kernel = 3, stride = 1;
    std::vector<std::int64_t> pads;
    bool shortcut = false;

    void visit(ov::AttributeVisitor& visitor);

    /// Raises what OpenVINO raises, in the name of `node`, if the attributes are out of range.
    void check(const ov::Node* node) const;

    /// Sizes of a block with an input, `hidden` expanded, `squeeze` and `outputs` channels. Raises
    /// if they do not fit.
    MbConvShape shape(const ov::Node* node, const MbConvSize& x, std::int64_t hidden,
                      std::int64_t squeeze, std::int64_t outputs) const;

    /// The same for sizes that were checked before.
    MbConvShape shape(const MbConvSize& x, std::int64_t hidden, std::int64_t squeeze,
                      std::int64_t outputs) const;
};

}  // namespace mammofm
