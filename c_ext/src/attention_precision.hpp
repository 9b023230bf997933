// Whether attention computes in INT8: asked by the graph, decided per process.
#pragma once

#include <string>

namespace mammofm {

/// Values of the attribute `precision` and of MAMMOFM_ATTENTION.
constexpr const char* kFloat32 = "float32";
constexpr const char* kInt8 = "int8";

/// True if `precision` is one of the two.
bool is_attention_precision(const std::string& precision);

/// Why the value of MAMMOFM_ATTENTION is refused, in one line; empty if it is not.
const std::string& attention_precision_error();

/// True if an operation that asks for `precision` runs in INT8 here: as MAMMOFM_ATTENTION says if
/// it is set and not empty, else where it is asked for and the kernels of this process gain by it.
/// MAMMOFM_ATTENTION is read at the first call.
bool attention_runs_int8(const std::string& precision);

}  // namespace mammofm
