#include "mbconv_op_common.hpp"

namespace mammofm {
namespace {

constexpr std::size_t kPads = 4;

/// Length of an axis after a convolution.
std::int64_t convolved(std::int64_t length, std::int64_t kernel, std::int64_t stride,
                       std::int64_t padding) {
    return (length + padding - kernel) / stride + 1;
}

}  // namespace

void MbConvForm::visit(ov::AttributeVisitor& visitor) {
    visitor.on_attribute("expand", expand);
    visitor.on_attribute("kernel", kernel);
    visitor.on_attribute("stride", stride);
    visitor.on_attribute("pads", pads);
    visitor.on_attribute("shortcut", shortcut);
}

void MbConvForm::check(const ov::Node* node) const {
    NODE_VALIDATION_CHECK(node, expand == 0 || expand == 1 || expand == 3,
                          "expand must be 0, 1 or 3, not ", expand);
    NODE_VALIDATION_CHECK(node, kernel == 3 || kernel == 5, "kernel must be 3 or 5, not ", kernel);
    NODE_VALIDATION_CHECK(node, stride == 1 || stride == 2, "stride must be 1 or 2, not ", stride);
    NODE_VALIDATION_CHECK(node, pads.size() == kPads, "pads must be 4 numbers, not ", pads.size());
    for (std::size_t i = 0; i < kPads; ++i) {
        const std::int64_t most = i < 2 ? 2 : kernel - 1;
        NODE_VALIDATION_CHECK(node, pads[i] >= 0 && pads[i] <= most, "pads must be 0 to ", most,
                              ", not ", pads[i]);
    }
}

MbConvShape MbConvForm::shape(const MbConvSize& x, std::int64_t hidden, std::int64_t squeeze,
                              std::int64_t outputs) const {
    MbConvShape shape{};
    shape.in_channels = x.channels;
    shape.in_height = x.height;
    shape.in_width = x.width;
    shape.expand = expand;
    shape.expand_pad = pads[0];
    shape.hidden = hidden;
    const std::int64_t outer = pads[0] + pads[1];
    const bool strided = expand == 3;
    shape.height = strided ? convolved(shape.in_height, 3, 2, outer) : shape.in_height;
    shape.width = strided ? convolved(shape.in_width, 3, 2, outer) : shape.in_width;
    shape.kernel = kernel;
    shape.stride = stride;
    shape.pad = pads[2];
    const std::int64_t inner = pads[2] + pads[3];
    shape.out_height = convolved(shape.height, shape.kernel, shape.stride, inner);
    shape.out_width = convolved(shape.width, shape.kernel, shape.stride, inner);
    shape.squeeze = squeeze;
    shape.out_channels = outputs;
    shape.shortcut = shortcut;
    return shape;
}

MbConvShape MbConvForm::shape(const ov::Node* node, const MbConvSize& x, std::int64_t hidden,
                              std::int64_t squeeze, std::int64_t outputs) const {
    const MbConvShape found = shape(x, hidden, squeeze, outputs);
    NODE_VALIDATION_CHECK(node, found.out_height > 0 && found.out_width > 0,
                          "x is smaller than the kernel: ", x.height, " x ", x.width);
    const bool fits = expand == 0   ? x.channels == hidden && x.channels % 8 == 0
                      : expand == 1 ? x.channels % 4 == 0
                                    : x.channels == 1;
    NODE_VALIDATION_CHECK(node, fits, "expand=", expand, " and hidden=", hidden,
                          " do not fit x of ", x.channels, " channels");
    NODE_VALIDATION_CHECK(node, outputs > 0 && outputs % 8 == 0,
                          "output channels must be a multiple of 8, not ", outputs);
    const bool same = stride == 1 && outputs == x.channels && expand != 3 &&
                      found.out_height == x.height && found.out_width == x.width;
    NODE_VALIDATION_CHECK(node, !shortcut || same, "a shortcut needs an output shaped like x");
    return found;
}

}  // namespace mammofm
