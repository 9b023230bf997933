// Which kernels run on this machine: chosen once per process, by CPU features and MAMMOFM_ISA.
#pragma once

#include <string>

namespace mammofm {

struct TiledAttentionKernel;
struct TiledAttentionInt8Kernel;
struct MbConvF32Kernel;

/// The instruction set of this process, or why there is none.
struct InstructionSet {
    std::string name;  ///< "portable", "avx2", "avx512", "avx512_vnni"; empty on refusal
    const TiledAttentionKernel* kernel{};  ///< null on refusal
    const TiledAttentionInt8Kernel* int8_kernel{};
    const MbConvF32Kernel* mbconv_f32_kernel{};
    std::string error;  ///< one line; empty unless refused
};

/// The selection, made at the first call: the value of MAMMOFM_ISA if it is set and not empty, else
/// the highest that the CPU has. Refused when the name is unknown or the CPU lacks the features.
const InstructionSet& selected_instruction_set();

/// Names of the instruction sets that this CPU can run, lowest first: "portable,avx2".
const std::string& supported_instruction_sets();

}  // namespace mammofm
