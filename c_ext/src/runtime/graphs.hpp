// Compiled graphs of one bundle: each held against what it must take and give, compiled once when
// first needed, and reused. As mammofm_lite/graphs.py and contract.py.

#pragma once

#include <map>
#include <memory>
#include <openvino/openvino.hpp>
#include <set>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "stages.hpp"
#include "tiling.hpp"

namespace mammofm {

using Tensors = std::map<std::string, ov::Tensor>;

/// An input or output: an element type as OpenVINO names it; -1 stands for any size.
struct Port {
    std::string type;
    std::vector<std::int64_t> shape;

    std::string text() const;
};

/// Inputs: exactly these. Outputs: at least these.
struct Contract {
    std::map<std::string, Port> inputs;
    std::map<std::string, Port> outputs;
};

/// The contract of every graph, by file name; without the decoder of the report.
std::map<std::string, Contract> graph_contracts(const Bundle& bundle);

/// Hold a graph against its contract.
void check_graph(const std::string& file, const ov::Model& graph, const Contract& contract);

/// All names of all outputs of a graph.
std::map<std::string, Port> outputs_of(const ov::Model& graph);

/// One compiled graph and its one inference request.
class Graph {
  public:
    Graph(std::string name, ov::CompiledModel compiled);

    /// Infer; inputs are shared, outputs fresh. A number that is not finite is refused.
    Tensors run(const Tensors& inputs);
    void release_memory() { compiled_.release_memory(); }

  private:
    std::string name_;
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
};

class GraphStore {
  public:
    GraphStore(const Bundle& bundle, int threads, bool tiled);

    const std::string& cpu_name() const { return cpu_name_; }
    /// The graph of file `name`, compiled if this is its first use.
    Graph& graph(const std::string& name, const Stages& stages);
    /// Hold the graph of file `name` against its contract, once.
    void check(const std::string& name);
    std::shared_ptr<ov::Model> model(const std::string& name);
    ov::CompiledModel compile(const std::string& name, const Stages& stages);
    /// What our attention computes in, in those of the graphs `names` that are compiled: "int8" if
    /// any does, else "float32"; "none" if they have none.
    std::string attention(const std::set<std::string>& names) const;
    /// Operations of ours in those of the graphs `names` that are compiled, by file: with which
    /// kernels, how often.
    std::map<std::string, std::string> kernels(const std::set<std::string>& names) const;

  private:
    /// What a compiled graph holds of ours.
    struct Ours {
        std::set<std::string> attention;  // precisions
        std::string kernels;
    };
    static Ours ours_of(const ov::Model& model);

    const Bundle& bundle_;
    int threads_;
    TiledPrecisions tiled_;
    ov::Core core_;
    std::string cpu_name_;
    std::map<std::string, Contract> contracts_;
    std::map<std::string, std::shared_ptr<ov::Model>> models_;
    std::map<std::string, bool> checked_;
    std::map<std::string, Ours> ours_;
    std::map<std::string, std::unique_ptr<Graph>> graphs_;
};

/// Version of the OpenVINO library at hand, without the build number.
std::string openvino_version();

}  // namespace mammofm
