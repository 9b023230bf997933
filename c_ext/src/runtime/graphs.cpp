#include "graphs.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <openvino/core/op_extension.hpp>
#include <unordered_set>

#include "../attention_precision.hpp"
#include "../instruction_set.hpp"
#include "../tiled_attention_op.hpp"
#include "../tiled_mbconv.hpp"
#include "../tiled_mbconv_f32_op.hpp"
#include "../tiled_mbconv_kernel.hpp"
#include "../tiled_mbconv_op.hpp"
#include "alternate_stack.hpp"
#include "failure.hpp"
#include "tiling.hpp"
#include "views.hpp"

namespace mammofm {
namespace {

constexpr char kDescription[] = "bundle.json: ";
/// Of the blocks that our kernels are faster at on this CPU; as _fast_precisions of graphs.py.
TiledPrecisions fast_precisions() {
    const std::string& isa = selected_instruction_set().name;
    return {std::string(selected_mbconv_kernel().name) == "avx512vnni",
            isa == "avx512" || isa == "avx512_vnni"};
}
constexpr char kAnew[] = "; export the bundle anew";

Port f32(const Sizes& shape) {
    return {"f32", shape};
}
Port i64(const Sizes& shape) {
    return {"i64", shape};
}

// -------------------- from the description

/// Shape of an encoder's output that a member takes; the first axis is the one view.
Sizes feature(const Bundle& bundle, const char* head, const std::string& encoder,
              const char* output, std::size_t rank) {
    const auto& outputs = bundle.encoders.at(encoder).outputs;
    auto found = outputs.find(output);
    if (found == outputs.end() || found->second.size() != rank || found->second[0] != 1)
        fail_bundle(kDescription + std::string("head ") + in_quotes(head) + " needs the output " +
                    in_quotes(output) + " of encoder " + in_quotes(encoder) + " with " +
                    std::to_string(rank) + " axes, the first of size 1" + kAnew);
    return found->second;
}

Contract encoder_contract(const Bundle& bundle, const EncoderSpec& spec) {
    const PreprocessingSpec& size = bundle.preprocessing;
    Contract contract;
    contract.inputs["image"] = {"u8", {1, 1, size.height, size.width}};
    for (const auto& [name, shape] : spec.outputs)
        contract.outputs[name] = f32(shape);
    return contract;
}

Contract diagnosis_contract(const Bundle& bundle, const DiagnosisMember& member) {
    std::int64_t columns = 0;
    for (const LabelSpec& label : member.labels)
        columns += static_cast<std::int64_t>(label.columns());
    return {{{"pooled", f32(feature(bundle, "diagnosis", member.encoder, "pooled", 2))}},
            {{"probabilities", f32({1, columns})}}};
}

Contract localization_contract(const Bundle& bundle, const LocalizationMember& member) {
    Contract contract;
    for (const char* level : {"c3", "c4", "c5"})
        contract.inputs[level] = f32(feature(bundle, "localization", member.encoder, level, 4));
    contract.outputs = {{"boxes", f32({-1, 4})}, {"scores", f32({-1})}, {"labels", i64({-1})}};
    return contract;
}

Contract prognosis_contract(const Bundle& bundle, const PrognosisMember& member) {
    const Sizes shape = feature(bundle, "prognosis", member.encoder, "map", 4);
    std::array<std::int64_t, 2> cells = {};
    for (std::size_t axis : {0, 1}) {
        if (shape[2 + axis] != member.map[axis])
            fail_bundle(kDescription + std::string("head 'prognosis' has a map of ") +
                        std::to_string(member.map[0]) + " x " + std::to_string(member.map[1]) +
                        " cells, encoder " + in_quotes(member.encoder) + " gives " +
                        std::to_string(shape[2]) + " x " + std::to_string(shape[3]) + kAnew);
        if (member.window[axis] > member.map[axis])
            fail_bundle(kDescription +
                        std::string("head 'prognosis': 'window' is larger than 'map'"));
        cells[axis] = (member.map[axis] - member.window[axis]) / member.stride[axis] + 1;
    }
    const auto years = static_cast<std::int64_t>(member.years.size());
    Contract contract;
    for (const char* name : {"cc_left", "cc_right", "mlo_left", "mlo_right"})
        contract.inputs[name] = f32(shape);
    contract.inputs["usable"] = f32({2});
    contract.outputs = {{"score", f32({years})},
                        {"risk", f32({years})},
                        {"heatmap", f32({years, 2, cells[0], cells[1]})},
                        {"peak", i64({years, 2, 2})}};
    return contract;
}

Contract fusion_contract(const Bundle& bundle, const ReportSpec& spec) {
    const Sizes shape = feature(bundle, "report", spec.encoder, "map", 4);
    Contract contract;
    for (const char* name : {"map_l_cc", "map_l_mlo", "map_r_cc", "map_r_mlo"})
        contract.inputs[name] = f32(shape);
    contract.inputs["present"] = f32({1, MFM_VIEW_COUNT});
    return contract;
}

void add(std::map<std::string, Contract>& all, const std::string& name, Contract contract) {
    if (!all.emplace(name, std::move(contract)).second)
        fail_bundle(kDescription + std::string("the graph ") + in_quotes(name) +
                    " is named for two tasks");
}

// -------------------- held against a graph

Port port_of(const ov::Output<const ov::Node>& output) {
    Port port{output.get_element_type().get_type_name(), {}};
    const ov::PartialShape shape = output.get_partial_shape();
    if (shape.rank().is_dynamic())
        return port;
    for (const ov::Dimension& size : shape)
        port.shape.push_back(size.is_dynamic() ? -1 : size.get_length());
    return port;
}

std::map<std::string, Port> ports_of(const std::vector<ov::Output<const ov::Node>>& found) {
    std::map<std::string, Port> ports;
    for (const auto& output : found) {
        for (const std::string& name : output.get_names())
            ports[name] = port_of(output);
    }
    return ports;
}

void check_port(const std::string& file, const char* kind, const std::string& name,
                const Port& wanted, const std::map<std::string, Port>& found) {
    auto have = found.find(name);
    if (have == found.end())
        fail_bundle(file + ": has no " + kind + " " + in_quotes(name) + ", which must be " +
                    wanted.text() + kAnew);
    const Port& port = have->second;
    bool same = port.type == wanted.type && port.shape.size() == wanted.shape.size();
    for (std::size_t i = 0; same && i < wanted.shape.size(); ++i)
        same = wanted.shape[i] == -1 || wanted.shape[i] == port.shape[i];
    if (!same)
        fail_bundle(file + ": " + kind + " " + in_quotes(name) + " is " + port.text() +
                    ", the bundle needs " + wanted.text() + kAnew);
}

// -------------------- OpenVINO

/// OpenVINO's errors are pages long and name places in its sources.
template <typename Work>
auto loading(const std::string& name, Work work) {
    try {
        return work();
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception&) {
        fail_bundle(name + ": OpenVINO " + openvino_version() +
                    " cannot load this graph; export the bundle anew with this version");
    }
}

std::array<long, 4> version_parts(const std::string& version) {
    std::array<long, 4> parts = {};
    const char *at = version.data(), *end = at + version.size();
    for (long& part : parts) {
        at = std::from_chars(at, end, part).ptr;
        if (at == end || *at != '.')
            break;
        ++at;
    }
    return parts;
}

/// Graphs of older versions are read by newer ones, not the other way round.
void check_openvino(const Bundle& bundle) {
    const std::string here = openvino_version();
    if (version_parts(bundle.made_with_openvino) > version_parts(here))
        fail_bundle("the bundle was made with OpenVINO " + bundle.made_with_openvino +
                    ", newer than the " + here +
                    " at hand; update mammofm-lite or export the bundle anew");
}

std::string stripped(const std::string& text) {
    const char* blank = " \t\n\r\f\v";
    std::size_t first = text.find_first_not_of(blank);
    return first == std::string::npos
               ? ""
               : text.substr(first, text.find_last_not_of(blank) - first + 1);
}

/// One of an output's names; none need be given to an output that nothing asks for.
std::string name_of(const std::unordered_set<std::string>& names) {
    return names.empty() ? "without name" : *names.begin();
}

void check_finite(const std::string& name, const std::string& output, const ov::Tensor& tensor) {
    if (tensor.get_element_type() != ov::element::f32)
        return;
    const auto* values = tensor.data<const float>();
    if (!std::all_of(values, values + tensor.get_size(), [](float v) { return std::isfinite(v); }))
        fail_bundle(name + ": output " + in_quotes(output) + " is not finite");
}

}  // namespace

std::string Port::text() const {
    std::string sizes;
    for (std::int64_t size : shape)
        sizes += (sizes.empty() ? "" : ", ") + (size < 0 ? "?" : std::to_string(size));
    return type + " [" + sizes + "]";
}

std::map<std::string, Contract> graph_contracts(const Bundle& bundle) {
    std::map<std::string, Contract> all;
    for (const auto& [_, spec] : bundle.encoders)
        add(all, spec.model, encoder_contract(bundle, spec));
    for (const DiagnosisMember& member : bundle.diagnosis)
        add(all, member.model, diagnosis_contract(bundle, member));
    for (const LocalizationMember& member : bundle.localization)
        add(all, member.model, localization_contract(bundle, member));
    for (const PrognosisMember& member : bundle.prognosis)
        add(all, member.model, prognosis_contract(bundle, member));
    if (bundle.report)
        add(all, bundle.report->fusion, fusion_contract(bundle, *bundle.report));
    if (bundle.text) {  // never run here, but no other task may name its graphs
        add(all, bundle.text->model, {});
        add(all, bundle.text->match, {});
    }
    return all;
}

void check_graph(const std::string& file, const ov::Model& graph, const Contract& contract) {
    const std::map<std::string, Port> inputs = ports_of(graph.inputs());
    const std::map<std::string, Port> outputs = ports_of(graph.outputs());
    for (const auto& [name, port] : contract.inputs)
        check_port(file, "input", name, port, inputs);
    for (const auto& [name, port] : contract.outputs)
        check_port(file, "output", name, port, outputs);
    for (const auto& input : graph.inputs()) {
        const auto& names = input.get_names();
        bool fed = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
            return contract.inputs.count(name) > 0;
        });
        if (!fed)
            fail_bundle(file + ": has an input " + in_quotes(name_of(names)) +
                        " that nothing feeds" + kAnew);
    }
}

std::map<std::string, Port> outputs_of(const ov::Model& graph) {
    return ports_of(graph.outputs());
}

Graph::Graph(std::string name, ov::CompiledModel compiled)
    : name_(std::move(name)),
      compiled_(std::move(compiled)),
      request_(compiled_.create_infer_request()) {}

Tensors Graph::run(const Tensors& inputs) {
    for (const auto& [name, tensor] : inputs)
        request_.set_tensor(name, tensor);
    request_.infer();
    Tensors results;
    for (const auto& output : compiled_.outputs()) {
        const ov::Tensor found = request_.get_tensor(output);
        ov::Tensor copy(found.get_element_type(), found.get_shape());
        if (found.get_size() > 0)  // an empty one, of no box for example, has no memory to copy
            found.copy_to(copy);
        check_finite(name_, name_of(output.get_names()), copy);
        for (const std::string& name : output.get_names())
            results[name] = copy;
    }
    return results;
}

GraphStore::GraphStore(const Bundle& bundle, int threads, bool tiled)
    : bundle_(bundle), threads_(threads) {
    check_openvino(bundle);
    const InstructionSet& selected = selected_instruction_set();
    if (!selected.error.empty())
        throw Failure(MFM_ERROR_KERNEL, selected.error);
    if (!attention_precision_error().empty())
        throw Failure(MFM_ERROR_KERNEL, attention_precision_error());
    tiled_ = tiled ? fast_precisions() : TiledPrecisions{false, false};
    core_.add_extension(std::make_shared<ov::OpExtension<TiledAttention>>());
    core_.add_extension(std::make_shared<ov::OpExtension<TiledMBConv>>());
    core_.add_extension(std::make_shared<ov::OpExtension<TiledMBConvF32>>());
    const AlternateStack own;  // the first question creates the plugin
    cpu_name_ = stripped(core_.get_property("CPU", ov::device::full_name));
    contracts_ = graph_contracts(bundle);
}

Graph& GraphStore::graph(const std::string& name, const Stages& stages) {
    auto found = graphs_.find(name);
    if (found == graphs_.end())
        found = graphs_.emplace(name, std::make_unique<Graph>(name, compile(name, stages))).first;
    return *found->second;
}

void GraphStore::check(const std::string& name) {
    if (!checked_[name])
        model(name);
}

std::shared_ptr<ov::Model> GraphStore::model(const std::string& name) {
    std::shared_ptr<ov::Model>& model = models_[name];
    if (model == nullptr) {
        const std::string path = bundle_.file(name);
        const std::string weights = bundle_.file(Bundle::weights_file(name));
        auto read = loading(name, [&] { return core_.read_model(path, weights); });
        auto contract = contracts_.find(name);
        if (contract != contracts_.end())
            check_graph(name, *read, contract->second);
        model = read;
        checked_[name] = true;
    }
    return model;
}

ov::CompiledModel GraphStore::compile(const std::string& name, const Stages& stages) {
    ov::CompiledModel compiled = stages.stage("compile", name, [&] {
        const std::shared_ptr<ov::Model> graph = model(name);
        return loading(name, [&] {
            tile(*graph, tiled_);
            ours_[name] = ours_of(*graph);
            // Without the precision hint, CPUs with bfloat16 units would round activations and the
            // numbers of one bundle would differ from machine to machine.
            return core_.compile_model(
                graph, "CPU", ov::hint::inference_precision(ov::element::f32),
                ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                ov::num_streams(ov::streams::Num(1)), ov::inference_num_threads(threads_));
        });
    });
    models_.erase(name);  // the compiled one lives on without it
    stages.log(MFM_LOG_INFO, "compiled " + name);
    return compiled;
}

GraphStore::Ours GraphStore::ours_of(const ov::Model& model) {
    Ours ours;
    std::size_t attentions = 0, blocks = 0, f32_blocks = 0;
    for (const auto& op : model.get_ops()) {
        if (const auto attention = ov::as_type_ptr<TiledAttention>(op)) {
            ours.attention.insert(attention_runs_int8(attention->precision()) ? kInt8 : kFloat32);
            ++attentions;
        }
        blocks += ov::is_type<TiledMBConv>(op) ? 1 : 0;
        f32_blocks += ov::is_type<TiledMBConvF32>(op) ? 1 : 0;
    }
    auto note = [&](const char* op, const std::string& kernel, std::size_t count) {
        if (count > 0)
            ours.kernels += (ours.kernels.empty() ? "" : ", ") + std::string(op) + " (" + kernel +
                            ") x " + std::to_string(count);
    };
    note("TiledAttention", selected_instruction_set().name, attentions);
    note("TiledMBConv", selected_mbconv_kernel().name, blocks);
    note("TiledMBConvF32", selected_instruction_set().name, f32_blocks);
    return ours;
}

std::string GraphStore::attention(const std::set<std::string>& names) const {
    std::set<std::string> found;
    for (const std::string& name : names) {
        auto ours = ours_.find(name);
        if (ours != ours_.end())
            found.insert(ours->second.attention.begin(), ours->second.attention.end());
    }
    return found.empty() ? "none" : found.count(kInt8) > 0 ? kInt8 : kFloat32;
}

std::map<std::string, std::string> GraphStore::kernels(const std::set<std::string>& names) const {
    std::map<std::string, std::string> found;
    for (const std::string& name : names) {
        auto ours = ours_.find(name);
        if (ours != ours_.end() && !ours->second.kernels.empty())
            found[name] = ours->second.kernels;
    }
    return found;
}

std::string openvino_version() {
    const std::string version = ov::get_openvino_version().buildNumber;
    return version.substr(0, version.find('-'));
}

}  // namespace mammofm
