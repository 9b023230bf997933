#include "instruction_set.hpp"

#include <cstdlib>
#include <vector>

#include "tiled_attention_kernel.hpp"
#include "tiled_mbconv_f32_kernel.hpp"

namespace mammofm {
namespace {

struct Candidate {
    std::string name;
    const TiledAttentionKernel* kernel;
    const TiledAttentionInt8Kernel* int8_kernel;
    const MbConvF32Kernel* mbconv_f32_kernel;
    bool supported;
};

// Lowest first. The generated file holds one line per instruction set that was compiled, with a
// test for every feature that its compiler flags allow (c_ext/CMakeLists.txt).
const std::vector<Candidate>& candidates() {
    static const std::vector<Candidate> all = {
#define MAMMOFM_INSTRUCTION_SET(isa, gate)                                  \
    {#isa, &isa::tiled_attention_kernel, &isa::tiled_attention_int8_kernel, \
     &isa::mbconv_f32_kernel, gate},
#include "instruction_sets.inc"
#undef MAMMOFM_INSTRUCTION_SET
    };
    return all;
}

std::string names(bool only_supported, const char* separator) {
    std::string text;
    for (const Candidate& candidate : candidates()) {
        if (only_supported && !candidate.supported)
            continue;
        text += (text.empty() ? "" : separator) + candidate.name;
    }
    return text;
}

InstructionSet refuse(std::string reason) {
    return {{}, nullptr, nullptr, nullptr, std::move(reason)};
}

InstructionSet choose(const Candidate& candidate) {
    return {
        candidate.name, candidate.kernel, candidate.int8_kernel, candidate.mbconv_f32_kernel, {}};
}

InstructionSet select_highest() {
    const Candidate* best = nullptr;
    for (const Candidate& candidate : candidates()) {
        if (candidate.supported)
            best = &candidate;
    }
    return choose(*best);  // portable is always supported
}

InstructionSet select() {
    const char* wanted = std::getenv("MAMMOFM_ISA");
    if (wanted == nullptr || *wanted == '\0')
        return select_highest();
    for (const Candidate& candidate : candidates()) {
        if (candidate.name != wanted)
            continue;
        if (!candidate.supported)
            return refuse("MAMMOFM_ISA=" + candidate.name + ": this CPU lacks it; it supports " +
                          names(/*only_supported=*/true, ", "));
        return choose(candidate);
    }
    return refuse("MAMMOFM_ISA: unknown instruction set '" + std::string(wanted) +
                  "'; this build knows " + names(/*only_supported=*/false, ", "));
}

}  // namespace

const InstructionSet& selected_instruction_set() {
    static const InstructionSet selected = select();
    return selected;
}

const std::string& supported_instruction_sets() {
    static const std::string supported = names(/*only_supported=*/true, ",");
    return supported;
}

}  // namespace mammofm
