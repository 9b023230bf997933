#include "tiling.hpp"

#include <iterator>
#include <map>

#include "graph_match.hpp"

namespace mammofm {
namespace {

using match::Node;

/// Whether anything but the operations `readers` needs what the block ends in.
bool read_elsewhere(const TiledBlock& block, const std::set<Node>& readers) {
    for (const Node& node : match::consumers(block.exit)) {
        if (readers.count(node) == 0)
            return true;
    }
    if (block.raw == block.exit)
        return false;
    for (const Node& node : match::consumers(block.raw)) {
        if (node != block.exit)
            return true;
    }
    return false;
}

/// Let what read the block's last values in planes of floats read those of the operation.
void emit_planes(const Node& node, const TiledBlock& block) {
    ov::Output<ov::Node> replaced = block.raw->output(0), output = node->output(1);
    output.set_names(replaced.get_names());
    for (ov::Input<ov::Node> target : replaced.get_target_inputs())
        target.replace_source_output(output);
}

std::vector<TiledBlock> all_blocks(const ov::Model& model, const TiledPrecisions& precisions) {
    std::vector<TiledBlock> blocks;
    if (precisions.int8)
        blocks = int8_blocks(model);
    if (precisions.float32) {
        std::vector<TiledBlock> more = f32_blocks(model);
        std::move(more.begin(), more.end(), std::back_inserter(blocks));
    }
    return blocks;
}

}  // namespace

std::size_t tile(ov::Model& model, const TiledPrecisions& precisions) {
    const std::vector<TiledBlock> blocks = all_blocks(model, precisions);
    std::map<Node, std::set<Node>> readers;
    for (const TiledBlock& block : blocks)
        readers[block.entry].insert(block.readers.begin(), block.readers.end());
    std::vector<bool> emits;
    for (const TiledBlock& block : blocks)
        emits.push_back(read_elsewhere(block, readers[block.exit]));
    std::map<Node, Node> made;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const TiledBlock& block = blocks[i];
        const auto previous = made.find(block.entry);
        const Node node = block.make(
            previous == made.end() ? block.first_input() : previous->second->output(0), emits[i]);
        node->set_friendly_name(block.exit->get_friendly_name() + "/tiled");
        if (emits[i])
            emit_planes(node, block);
        made[block.exit] = node;
    }
    model.validate_nodes_and_infer_types();
    return blocks.size();
}

}  // namespace mammofm
