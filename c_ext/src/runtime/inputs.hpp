// What callers hand over, checked before anything is believed.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "mammofm.h"
#include "prepare.hpp"

namespace mammofm {

struct StudyInput {
    std::string study_instance_uid;
    std::vector<ViewInput> views;  // in the caller's order, each of another kind
};

/// The options as this library knows them; all zero for NULL.
mfm_run_options read_run_options(const mfm_run_options* options);

/// Heads asked for; all of the bundle for 0.
std::uint32_t read_heads(std::uint32_t heads, const Bundle& bundle);

/// Raises MFM_ERROR_USAGE where a field makes no sense. The pixels stay the caller's.
StudyInput read_study(const mfm_study* study);

}  // namespace mammofm
