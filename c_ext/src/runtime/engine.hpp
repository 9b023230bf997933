// One bundle, loaded once, that answers any number of studies; as mammofm_lite/engine.py.

#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "graphs.hpp"
#include "heads.hpp"
#include "inputs.hpp"
#include "report.hpp"
#include "results.hpp"
#include "stages.hpp"

namespace mammofm {

/// Not for use by two threads at once.
class Engine {
  public:
    /// `tiled`: encoders by our kernels where those are faster than OpenVINO's.
    Engine(Bundle bundle, int threads, bool tiled);
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    const Bundle& bundle() const { return bundle_; }
    int threads() const { return threads_; }
    /// Compile what the heads need.
    void compile(std::uint32_t heads, const Stages& stages);
    StudyResult run(const StudyInput& study, std::uint32_t heads, const Stages& stages);

  private:
    struct Prepared;
    struct Answers;
    /// Per view what an encoder gives; empty for a view that is not there.
    using Features = PerView<Tensors>;

    void check_graphs(std::uint32_t heads, const Stages& stages);
    Prepared prepare(const StudyInput& study, const Stages& stages) const;
    Answers answers(std::uint32_t heads, const Prepared& prepared, const Stages& stages);
    Features encode(const std::string& encoder, const Prepared& prepared, const Stages& stages);
    void answer(const std::string& encoder, const Features& features, std::uint32_t heads,
                const Prepared& prepared, Answers& found, const Stages& stages);
    void run_diagnosis(std::size_t member, const Features& features, Answers& found,
                       const Stages& stages);
    void run_localization(std::size_t member, const Features& features, const Prepared& prepared,
                          Answers& found, const Stages& stages);
    void run_prognosis(std::size_t member, const Features& features, Answers& found,
                       const Stages& stages);
    void interpret(std::uint32_t heads, const Prepared& prepared, Answers& found,
                   StudyResult& result) const;
    std::optional<Recall> recall(const StudyResult& result) const;
    std::set<std::string> files(const StudyResult& result) const;
    SoftwareInfo software(const StudyResult& result) const;

    Bundle bundle_;
    int threads_;
    GraphStore graphs_;
    std::unique_ptr<ReportRunner> report_;
};

/// CPUs that this process may use.
int available_cpus();

}  // namespace mammofm
