// What the library exports: OpenVINO's entry point, and C functions that say what will run here.

#include <memory>
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <vector>

#include "attention_precision.hpp"
#include "instruction_set.hpp"
#include "tiled_attention_op.hpp"
#include "tiled_mbconv.hpp"
#include "tiled_mbconv_f32_op.hpp"
#include "tiled_mbconv_kernel.hpp"
#include "tiled_mbconv_op.hpp"

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<mammofm::TiledAttention>>(),
     std::make_shared<ov::OpExtension<mammofm::TiledMBConv>>(),
     std::make_shared<ov::OpExtension<mammofm::TiledMBConvF32>>()}));

// The texts belong to the library and live as long as it is loaded.
extern "C" {

/// Name of the instruction set that the kernels use in this process; NULL if it was refused.
__attribute__((visibility("default"))) const char* mammofm_instruction_set(void) {
    const mammofm::InstructionSet& selected = mammofm::selected_instruction_set();
    return selected.error.empty() ? selected.name.c_str() : nullptr;
}

/// Name of the kernels of TiledMBConv in this process; NULL if the instruction set was refused.
__attribute__((visibility("default"))) const char* mammofm_mbconv_kernel(void) {
    if (!mammofm::selected_instruction_set().error.empty())
        return nullptr;
    return mammofm::selected_mbconv_kernel().name;
}

/// Why the instruction set that MAMMOFM_ISA asks for was refused, in one line; NULL if it was not.
__attribute__((visibility("default"))) const char* mammofm_instruction_set_error(void) {
    const mammofm::InstructionSet& selected = mammofm::selected_instruction_set();
    return selected.error.empty() ? nullptr : selected.error.c_str();
}

/// Names of all instruction sets that this CPU can run, lowest first, separated by commas.
__attribute__((visibility("default"))) const char* mammofm_supported_instruction_sets(void) {
    return mammofm::supported_instruction_sets().c_str();
}

/// What an attention that asks for `precision` ("float32" or "int8") runs in this process, by the
/// same names; NULL if the value of MAMMOFM_ATTENTION is refused.
__attribute__((visibility("default"))) const char* mammofm_attention_precision(
    const char* precision) {
    if (!mammofm::attention_precision_error().empty())
        return nullptr;
    return mammofm::attention_runs_int8(precision) ? mammofm::kInt8 : mammofm::kFloat32;
}

/// Why the value of MAMMOFM_ATTENTION was refused, in one line; NULL if it was not.
__attribute__((visibility("default"))) const char* mammofm_attention_precision_error(void) {
    const std::string& error = mammofm::attention_precision_error();
    return error.empty() ? nullptr : error.c_str();
}

}  // extern "C"
