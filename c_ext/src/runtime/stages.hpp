// What happens while a study is processed, told to whoever asked; and whether to go on.

#pragma once

#include <chrono>
#include <string>

#include "failure.hpp"
#include "mammofm.h"

namespace mammofm {

/// The callbacks of one call, all of which may be missing.
class Stages {
  public:
    Stages(const mfm_run_options& options, mfm_log_callback log, void* log_user)
        : options_(options), log_(log), log_user_(log_user) {}

    /// Raises MFM_ERROR_CANCELLED where the caller wants to end.
    void check_cancelled() const {
        if (options_.cancelled != nullptr && options_.cancelled(options_.user) != 0)
            throw Failure(MFM_ERROR_CANCELLED, "cancelled by the caller");
    }

    /// Do `work` as one stage: told when it begins and, unless it fails, when it ends.
    template <typename Work>
    auto stage(const char* name, const std::string& detail, Work work) const {
        check_cancelled();
        tell(name, detail, -1);
        const auto start = std::chrono::steady_clock::now();
        if constexpr (std::is_void_v<decltype(work())>) {
            work();
            tell(name, detail, since(start));
        } else {
            auto result = work();
            tell(name, detail, since(start));
            return result;
        }
    }

    void log(mfm_log_level level, const std::string& line) const {
        if (log_ != nullptr)
            log_(log_user_, level, line.c_str());
    }

  private:
    static double since(std::chrono::steady_clock::time_point start) {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }

    void tell(const char* name, const std::string& detail, double seconds) const {
        if (options_.progress == nullptr)
            return;
        const mfm_progress progress = {sizeof(mfm_progress), name, detail.c_str(), seconds};
        options_.progress(options_.user, &progress);
    }

    mfm_run_options options_;
    mfm_log_callback log_;
    void* log_user_;
};

}  // namespace mammofm
