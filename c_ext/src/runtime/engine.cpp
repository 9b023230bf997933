#include "engine.hpp"

#include <sched.h>

#include <algorithm>
#include <set>
#include <thread>

#include "../instruction_set.hpp"
#include "failure.hpp"

#ifndef MAMMOFM_VERSION
#    error "MAMMOFM_VERSION must be set by the build"
#endif

namespace mammofm {
namespace {

constexpr bool asked(std::uint32_t heads, std::size_t head) {
    return (heads & MFM_HEAD_BIT(head)) != 0;
}

bool can_prognose(const PerView<bool>& views) {
    return !usable_projections(views).empty();
}

}  // namespace

struct Engine::Prepared {
    PerView<std::optional<PreparedView>> views;
    PerView<bool> given = {};  // also those that cannot be used
    PerView<bool> usable = {};
    std::vector<FileDecision> files;
    std::vector<std::string> notices;

    std::vector<std::size_t> names() const {
        std::vector<std::size_t> found;
        for (std::size_t view = 0; view < views.size(); ++view) {
            if (usable[view])
                found.push_back(view);
        }
        return found;
    }
};

/// What every member of the asked-for heads answers, in the bundle's order of members.
struct Engine::Answers {
    std::vector<PerView<std::optional<Columns>>> diagnosis;
    std::vector<std::vector<Mark>> localization;
    std::vector<Tensors> prognosis;
    std::optional<Report> report;
};

int available_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return std::max(CPU_COUNT(&set), 1);
    return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

Engine::Engine(Bundle bundle, int threads, bool tiled)
    : bundle_(std::move(bundle)), threads_(threads), graphs_(bundle_, threads, tiled) {}

/// Hold all graphs of the asked-for heads against the description, before any is run.
void Engine::check_graphs(std::uint32_t heads, const Stages& stages) {
    auto check = [&](std::size_t head, const auto& members) {
        for (const auto& member : members) {
            if (!asked(heads, head))
                return;
            graphs_.check(bundle_.encoders.at(member.encoder).model);
            graphs_.check(member.model);
        }
    };
    check(MFM_DIAGNOSIS, bundle_.diagnosis);
    check(MFM_LOCALIZATION, bundle_.localization);
    check(MFM_PROGNOSIS, bundle_.prognosis);
    if (asked(heads, MFM_REPORT) && bundle_.report) {
        graphs_.check(bundle_.encoders.at(bundle_.report->encoder).model);
        if (report_ == nullptr)
            report_ = std::make_unique<ReportRunner>(bundle_, graphs_, stages);
    }
}

void Engine::compile(std::uint32_t heads, const Stages& stages) {
    check_graphs(heads, stages);
    auto compile = [&](std::size_t head, const auto& members) {
        for (const auto& member : members) {
            if (!asked(heads, head))
                return;
            graphs_.graph(bundle_.encoders.at(member.encoder).model, stages);
            graphs_.graph(member.model, stages);
        }
    };
    compile(MFM_DIAGNOSIS, bundle_.diagnosis);
    compile(MFM_LOCALIZATION, bundle_.localization);
    compile(MFM_PROGNOSIS, bundle_.prognosis);
    if (asked(heads, MFM_REPORT) && bundle_.report)
        graphs_.graph(bundle_.encoders.at(bundle_.report->encoder).model, stages);
}

// -------------------- a study

StudyResult Engine::run(const StudyInput& study, std::uint32_t heads, const Stages& stages) {
    check_graphs(heads, stages);
    const Prepared prepared = prepare(study, stages);
    Answers found = answers(heads, prepared, stages);
    StudyResult result;
    result.study_instance_uid = study.study_instance_uid;
    result.notices = bundle_.notices();
    result.notices.insert(result.notices.end(), prepared.notices.begin(), prepared.notices.end());
    result.files = prepared.files;
    for (std::size_t view = 0; view < kViewNames.size(); ++view) {
        if (!prepared.usable[view]) {
            result.missing_views.push_back(view);
            continue;
        }
        auto input = std::find_if(study.views.begin(), study.views.end(),
                                  [&](const ViewInput& one) { return one.view == view; });
        result.views.push_back({view, input->sop_instance_uid, prepared.views[view]->geometry,
                                prepared.views[view]->deviations});
    }
    interpret(heads, prepared, found, result);
    result.recall = recall(result);
    result.software = software(result);
    return result;
}

Engine::Prepared Engine::prepare(const StudyInput& study, const Stages& stages) const {
    Prepared prepared;
    std::string first_failure;
    PerView<std::string> failures;
    std::vector<const ViewInput*> ordered;
    for (const ViewInput& input : study.views)
        ordered.push_back(&input);
    std::sort(ordered.begin(), ordered.end(),
              [](const ViewInput* one, const ViewInput* other) { return one->view < other->view; });
    for (const ViewInput* input : ordered) {
        const std::string name = kViewNames[input->view];
        prepared.given[input->view] = true;
        try {
            prepared.views[input->view] = stages.stage(
                "prepare", name, [&] { return prepare_view(*input, bundle_.preprocessing); });
            prepared.usable[input->view] = true;
        } catch (const Failure& failure) {
            if (failure.status() != MFM_ERROR_STUDY)
                throw;
            failures[input->view] = failure.what();
            if (first_failure.empty())
                first_failure = failure.what();
            stages.log(MFM_LOG_WARNING, name + " cannot be used: " + failure.what());
        }
    }
    if (prepared.names().empty())
        fail_study(first_failure);
    for (const ViewInput& input : study.views) {
        const bool used = prepared.usable[input.view];
        const std::string name = kViewNames[input.view];
        prepared.files.push_back({input.sop_instance_uid, used, input.view,
                                  used ? "used" : "pixels_unusable",
                                  used ? "used for " + name : failures[input.view]});
        if (!used)
            prepared.notices.push_back(name + " was found but not used: " + failures[input.view]);
    }
    return prepared;
}

/// One encoder after another, each once per view, then all members that need it.
Engine::Answers Engine::answers(std::uint32_t heads, const Prepared& prepared,
                                const Stages& stages) {
    Answers found;
    std::set<std::string> needed;
    auto need = [&](std::size_t head, const auto& members, auto& slots) {
        if (!asked(heads, head) || (head == MFM_PROGNOSIS && !can_prognose(prepared.given)))
            return;
        slots.resize(members.size());
        for (const auto& member : members)
            needed.insert(member.encoder);
    };
    need(MFM_DIAGNOSIS, bundle_.diagnosis, found.diagnosis);
    need(MFM_LOCALIZATION, bundle_.localization, found.localization);
    need(MFM_PROGNOSIS, bundle_.prognosis, found.prognosis);
    if (asked(heads, MFM_REPORT) && bundle_.report)
        needed.insert(bundle_.report->encoder);
    for (const std::string& encoder : needed) {
        const Features features = encode(encoder, prepared, stages);
        if (needed.size() > 1)
            graphs_.graph(bundle_.encoders.at(encoder).model, stages).release_memory();
        answer(encoder, features, heads, prepared, found, stages);
    }
    return found;
}

Engine::Features Engine::encode(const std::string& encoder, const Prepared& prepared,
                                const Stages& stages) {
    Graph& graph = graphs_.graph(bundle_.encoders.at(encoder).model, stages);
    Features features;
    for (std::size_t view : prepared.names()) {
        const GreyImage& image = prepared.views[view]->image;
        ov::Tensor tensor(ov::element::u8, {1, 1, static_cast<std::size_t>(image.rows),
                                            static_cast<std::size_t>(image.columns)});
        std::copy(image.pixels.begin(), image.pixels.end(), tensor.data<std::uint8_t>());
        features[view] = stages.stage("encode", encoder + " " + kViewNames[view],
                                      [&] { return graph.run({{"image", tensor}}); });
    }
    return features;
}

void Engine::answer(const std::string& encoder, const Features& features, std::uint32_t heads,
                    const Prepared& prepared, Answers& found, const Stages& stages) {
    for (std::size_t i = 0; i < found.diagnosis.size(); ++i) {
        if (bundle_.diagnosis[i].encoder == encoder)
            run_diagnosis(i, features, found, stages);
    }
    for (std::size_t i = 0; i < found.localization.size(); ++i) {
        if (bundle_.localization[i].encoder == encoder)
            run_localization(i, features, prepared, found, stages);
    }
    for (std::size_t i = 0; i < found.prognosis.size(); ++i) {
        if (bundle_.prognosis[i].encoder == encoder && can_prognose(prepared.usable))
            run_prognosis(i, features, found, stages);
    }
    if (!asked(heads, MFM_REPORT) || !bundle_.report || bundle_.report->encoder != encoder)
        return;
    PerView<const ov::Tensor*> maps = {};
    for (std::size_t view : prepared.names())
        maps[view] = &features[view].at("map");
    found.report = stages.stage("report", "", [&] { return report_->run(maps, stages); });
}

void Engine::run_diagnosis(std::size_t member, const Features& features, Answers& found,
                           const Stages& stages) {
    Graph& graph = graphs_.graph(bundle_.diagnosis[member].model, stages);
    stages.stage("diagnosis", "", [&] {
        for (std::size_t view = 0; view < features.size(); ++view) {
            if (features[view].empty())
                continue;
            const ov::Tensor row =
                graph.run({{"pooled", features[view].at("pooled")}}).at("probabilities");
            const auto* values = row.data<const float>();
            found.diagnosis[member][view] = Columns(values, values + row.get_size());
        }
    });
}

void Engine::run_localization(std::size_t member, const Features& features,
                              const Prepared& prepared, Answers& found, const Stages& stages) {
    const LocalizationMember& spec = bundle_.localization[member];
    Graph& graph = graphs_.graph(spec.model, stages);
    stages.stage("localization", "", [&] {
        for (std::size_t view : prepared.names()) {
            Tensors inputs;
            for (const char* level : {"c3", "c4", "c5"})
                inputs[level] = features[view].at(level);
            const std::vector<Mark> marks =
                marks_of_view(spec, view, prepared.views[view]->geometry, graph.run(inputs));
            found.localization[member].insert(found.localization[member].end(), marks.begin(),
                                              marks.end());
        }
    });
}

void Engine::run_prognosis(std::size_t member, const Features& features, Answers& found,
                           const Stages& stages) {
    Graph& graph = graphs_.graph(bundle_.prognosis[member].model, stages);
    PerView<bool> have;
    for (std::size_t view = 0; view < have.size(); ++view)
        have[view] = !features[view].empty();
    auto any = std::find(have.begin(), have.end(), true);
    const ov::Tensor& like = features[static_cast<std::size_t>(any - have.begin())].at("map");
    ov::Tensor blank(ov::element::f32, like.get_shape());
    std::fill_n(blank.data<float>(), blank.get_size(), 0.0f);
    ov::Tensor usable(ov::element::f32, {2});
    static const PerView<const char*> kInputs = {"cc_left", "mlo_left", "cc_right", "mlo_right"};
    Tensors inputs = {{"usable", usable}};
    for (std::size_t view = 0; view < have.size(); ++view) {
        const std::size_t projection = projection_of(view);
        const bool pair = have[view_of(0, projection)] && have[view_of(1, projection)];
        usable.data<float>()[projection] = pair ? 1.0f : 0.0f;
        inputs[kInputs[view]] = pair ? features[view].at("map") : blank;
    }
    found.prognosis[member] = stages.stage("prognosis", "", [&] { return graph.run(inputs); });
}

// -------------------- the result

void Engine::interpret(std::uint32_t heads, const Prepared& prepared, Answers& found,
                       StudyResult& result) const {
    std::string have;
    for (std::size_t view : prepared.names())
        have += (have.empty() ? "" : ", ") + std::string(kViewNames[view]);
    for (std::size_t head = 0; head < kHeadNames.size(); ++head) {
        const std::string name = kHeadNames[head];
        if (!asked(heads, head))
            continue;
        result.heads[head] = Outcome{};
        if (!bundle_.has(head))
            result.heads[head] = {"not_in_bundle", "the bundle " + in_quotes(bundle_.name) +
                                                       " has no " + name + " head"};
        else if (head == MFM_PROGNOSIS && !can_prognose(prepared.usable))
            result.heads[head] = {"missing_views", name +
                                                       " compares left with right and needs both "
                                                       "CC or both MLO views; the study has " +
                                                       have};
    }
    auto answered = [&](std::size_t head) {
        return result.heads[head] && result.heads[head]->reason.empty();
    };
    if (answered(MFM_DIAGNOSIS))
        result.diagnosis = interpret_diagnosis(bundle_.diagnosis, found.diagnosis);
    if (answered(MFM_LOCALIZATION)) {
        result.localization = LocalizationResult{prepared.names(), {}, {}};
        std::vector<Mark> marks;
        for (std::size_t i = 0; i < bundle_.localization.size(); ++i) {
            marks.insert(marks.end(), found.localization[i].begin(), found.localization[i].end());
            for (const std::string& label : bundle_.localization[i].labels)
                result.localization->thresholds.emplace_back(label,
                                                             bundle_.localization[i].threshold);
        }
        result.localization->marks = in_order(std::move(marks));
    }
    if (answered(MFM_PROGNOSIS)) {
        PerView<const Geometry*> geometries = {};
        for (std::size_t view : prepared.names())
            geometries[view] = &prepared.views[view]->geometry;
        result.prognosis = interpret_prognosis(bundle_.prognosis, found.prognosis, geometries);
    }
    if (answered(MFM_REPORT)) {
        result.report = ReportResult{std::move(*found.report), prepared.names(), {}};
        result.report->flags = report_flags(bundle_, result);
    }
}

std::optional<Recall> Engine::recall(const StudyResult& result) const {
    std::optional<Recall> recall;
    if (result.diagnosis) {
        if (const auto above = recall_basis(bundle_, *result.diagnosis)) {
            std::string names;
            for (const std::string& label : *above)
                names += (names.empty() ? "" : ", ") + label;
            recall =
                Recall{!above->empty(),
                       {"diagnosis: " + (names.empty() ? "nothing" : names) + " above threshold"}};
        }
    }
    if (result.report) {
        if (!recall)
            recall = Recall{false, {}};
        const bool suggested = result.report->report.recall;
        recall->suggested = recall->suggested || suggested;
        recall->basis.push_back(suggested ? "report: recall" : "report: no recall");
    }
    return recall;
}

/// The graphs that the answers come from.
std::set<std::string> Engine::files(const StudyResult& result) const {
    std::set<std::string> files;
    auto add = [&](bool answered, const auto& members) {
        for (const auto& member : members) {
            if (answered)
                files.insert({bundle_.encoders.at(member.encoder).model, member.model});
        }
    };
    add(result.diagnosis.has_value(), bundle_.diagnosis);
    add(result.localization.has_value(), bundle_.localization);
    add(result.prognosis.has_value(), bundle_.prognosis);
    if (result.report)
        files.insert({bundle_.encoders.at(bundle_.report->encoder).model, bundle_.report->fusion,
                      bundle_.report->decoder});
    return files;
}

SoftwareInfo Engine::software(const StudyResult& result) const {
    const std::set<std::string> names = files(result);
    SoftwareInfo info;
    info.mammofm_lite = MAMMOFM_VERSION;
    info.openvino = openvino_version();
    info.instruction_set = selected_instruction_set().name;
    info.attention = graphs_.attention(names);
    info.cpu = graphs_.cpu_name();
    info.threads = threads_;
    info.kernels = graphs_.kernels(names);
    return info;
}

}  // namespace mammofm
