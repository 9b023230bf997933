// The failures that this library raises on purpose, and how their one line is put together.

#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "mammofm.h"

namespace mammofm {

/// What the C functions turn into a status and the text of mfm_last_error().
class Failure : public std::runtime_error {
  public:
    Failure(mfm_status status, const std::string& line)
        : std::runtime_error(line), status_(status) {}
    mfm_status status() const { return status_; }

  private:
    mfm_status status_;
};

[[noreturn]] inline void fail_bundle(const std::string& line) {
    throw Failure(MFM_ERROR_BUNDLE, line);
}
[[noreturn]] inline void fail_study(const std::string& line) {
    throw Failure(MFM_ERROR_STUDY, line);
}
[[noreturn]] inline void fail_usage(const std::string& line) {
    throw Failure(MFM_ERROR_USAGE, line);
}

/// In quotes, every byte that is not printable ASCII escaped; cut after 60 bytes.
std::string in_quotes(std::string_view text);

/// As C's %g and Python's :g write it, whatever the locale.
std::string general(double value);

}  // namespace mammofm
