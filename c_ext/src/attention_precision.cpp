#include "attention_precision.hpp"

#include <cstdlib>

#include "instruction_set.hpp"
#include "tiled_attention_kernel.hpp"

namespace mammofm {
namespace {

const std::string& wanted() {
    static const std::string value = [] {
        const char* const text = std::getenv("MAMMOFM_ATTENTION");
        return std::string(text == nullptr ? "" : text);
    }();
    return value;
}

}  // namespace

bool is_attention_precision(const std::string& precision) {
    return precision == kFloat32 || precision == kInt8;
}

const std::string& attention_precision_error() {
    static const std::string error =
        wanted().empty() || is_attention_precision(wanted())
            ? std::string()
            : "MAMMOFM_ATTENTION: unknown precision '" + wanted() + "'; give float32 or int8";
    return error;
}

bool attention_runs_int8(const std::string& precision) {
    if (!wanted().empty())
        return wanted() == kInt8;
    const TiledAttentionInt8Kernel* const kernel = selected_instruction_set().int8_kernel;
    return precision == kInt8 && kernel != nullptr && kernel->pays;
}

}  // namespace mammofm
