// The functions of mammofm.h: checks at the border, then one call inside.

#include <mutex>
#include <string>
#include <utility>

#include "instruction_set.hpp"
#include "mammofm.h"
#include "runtime/boundary.hpp"
#include "runtime/bundle.hpp"
#include "runtime/engine.hpp"
#include "runtime/inputs.hpp"
#include "runtime/results.hpp"

using namespace mammofm;

struct mfm_model {
    mfm_model(Bundle bundle, int threads, const mfm_model_options& options)
        : engine(std::move(bundle), threads, options.no_tiled == 0),
          notices(engine.bundle().notices()),
          log(options.log),
          log_user(options.log_user) {}

    Stages stages(const mfm_run_options& options) const { return {options, log, log_user}; }

    Engine engine;
    std::vector<std::string> notices;
    mfm_log_callback log;
    void* log_user;
    std::mutex mutex;  // runs take turns
};

struct mfm_result {
    StudyResult study;
    std::string json;
};

namespace {

[[noreturn]] void fail_not_found(const std::string& line) {
    throw Failure(MFM_ERROR_NOT_FOUND, line);
}

template <typename Items>
const auto& item(const Items& items, std::size_t index, const char* what) {
    if (index >= items.size())
        fail_not_found(std::string(what) + " " + std::to_string(index) + " of " +
                       std::to_string(items.size()) + "; numbers begin with 0");
    return items[index];
}

template <typename Answer>
const Answer& answer(const std::optional<Answer>& found, const char* head) {
    if (!found)
        fail_not_found(std::string("the ") + head +
                       " head did not answer; mfm_result_head says why");
    return *found;
}

template <typename T>
void put(T* out, T value, const char* name) {
    require(out, name);
    *out = value;
}

const char* c_text(const std::optional<std::string>& text) {
    return text ? text->c_str() : nullptr;
}

mfm_box c_box(const Box& box) {
    return {box[0], box[1], box[2], box[3]};
}

int read_threads(std::int32_t threads) {
    if (threads < 0 || threads > 1024)
        fail_usage("threads must be from 1 to 1024, or 0 for all, not " + std::to_string(threads));
    return threads == 0 ? available_cpus() : threads;
}

/// The digits in lower case; empty for NULL.
std::string read_pin(const char* sha256) {
    constexpr std::size_t kDigits = 64;
    if (sha256 == nullptr)
        return "";
    std::string pin(sha256, strnlen(sha256, kDigits + 1));
    for (char& c : pin)
        c = c >= 'A' && c <= 'F' ? static_cast<char>(c + ('a' - 'A')) : c;
    if (pin.size() != kDigits || pin.find_first_not_of("0123456789abcdef") != std::string::npos)
        fail_usage("bundle_sha256 must be 64 hexadecimal digits, or NULL");
    return pin;
}

void check_pinned(const Bundle& bundle, const std::string& pin) {
    if (!pin.empty() && bundle.sha256 != pin)
        fail_bundle("the bundle is not the one asked for: the SHA-256 of its bundle.json differs");
}

const Scores& scores_of(const mfm_result* result, mfm_scope scope) {
    require(result, "result");
    const DiagnosisResult& diagnosis = answer(result->study.diagnosis, "diagnosis");
    if (scope == MFM_SCOPE_STUDY)
        return diagnosis.study;
    if (scope < MFM_SCOPE_STUDY || scope > MFM_SCOPE_R_MLO)
        fail_usage("scope is " + std::to_string(scope) + ", allowed 0 to 6");
    const auto& scores =
        scope <= MFM_SCOPE_RIGHT_BREAST
            ? diagnosis.breasts[static_cast<std::size_t>(scope - MFM_SCOPE_LEFT_BREAST)]
            : diagnosis.views[static_cast<std::size_t>(scope - MFM_SCOPE_L_CC)];
    if (!scores)
        fail_not_found("no view of this scope was used");
    return *scores;
}

const ReportResult& report_of(const mfm_result* result) {
    require(result, "result");
    return answer(result->study.report, "report");
}

struct SideFinding {
    mfm_laterality side;
    const ReportFinding* finding;
};

/// Right breast first, as in the report.
std::vector<SideFinding> findings_of(const mfm_result* result) {
    std::vector<SideFinding> all;
    for (std::size_t side : {1, 0}) {
        for (const ReportFinding& finding : report_of(result).report.breasts[side].findings)
            all.push_back({side == 1 ? MFM_RIGHT : MFM_LEFT, &finding});
    }
    return all;
}

const ViewInfo& view_of_result(const mfm_result* result, mfm_view_name view) {
    require(result, "result");
    for (const ViewInfo& info : result->study.views) {
        if (static_cast<mfm_view_name>(info.view) == view)
            return info;
    }
    fail_not_found("this view was not given or not used");
}

}  // namespace

extern "C" {

// -------------------- failures and versions

const char* mfm_last_error(void) {
    return last_error();
}

const char* mfm_status_name(mfm_status status) {
    static const char* const kNames[] = {"MFM_OK",
                                         "MFM_ERROR_INTERNAL",
                                         "MFM_ERROR_USAGE",
                                         "MFM_ERROR_STUDY",
                                         "MFM_ERROR_BUNDLE",
                                         "MFM_ERROR_CANCELLED",
                                         "MFM_ERROR_MEMORY",
                                         "MFM_ERROR_KERNEL",
                                         "MFM_ERROR_NOT_FOUND",
                                         "MFM_ERROR_UNSUPPORTED"};
    return status >= MFM_OK && status <= MFM_ERROR_UNSUPPORTED ? kNames[status] : "unknown status";
}

uint32_t mfm_abi_version(void) {
    return MFM_ABI_VERSION;
}

const char* mfm_version(void) {
    return MAMMOFM_VERSION;
}

const char* mfm_openvino_version(void) {
    try {
        static const std::string version = openvino_version();
        return version.c_str();
    } catch (...) {  // for want of memory
        return "";
    }
}

mfm_status mfm_instruction_set(const char** name) {
    return guarded([&] {
        const InstructionSet& selected = selected_instruction_set();
        if (!selected.error.empty())
            throw Failure(MFM_ERROR_KERNEL, selected.error);
        put(name, selected.name.c_str(), "name");
    });
}

// -------------------- models

mfm_status mfm_model_open(const char* path, const mfm_model_options* options, mfm_model** model) {
    return guarded([&] {
        require(path, "path");
        require(model, "model");
        const mfm_model_options known =
            options != nullptr ? read_struct(options, "mfm_model_options") : mfm_model_options{};
        const int threads = read_threads(known.threads);
        const std::string pin = read_pin(known.bundle_sha256);
        Bundle bundle = open_bundle(path);
        check_pinned(bundle, pin);
        auto opened = std::make_unique<mfm_model>(std::move(bundle), threads, known);
        const Bundle& verified = opened->engine.bundle();
        opened->stages({}).log(MFM_LOG_INFO, "opened bundle " + verified.name + " " +
                                                 verified.version + ", sha256 " + verified.sha256);
        *model = opened.release();
    });
}

void mfm_model_destroy(mfm_model* model) {
    guarded([&] { delete model; });
}

mfm_status mfm_model_get_info(const mfm_model* model, mfm_model_info* info) {
    return guarded([&] {
        require(model, "model");
        const Bundle& bundle = model->engine.bundle();
        mfm_model_info filled = {};
        filled.name = bundle.name.c_str();
        filled.version = bundle.version.c_str();
        filled.sha256 = bundle.sha256.c_str();
        filled.precision = bundle.precision.c_str();
        filled.intended_use = bundle.intended_use.c_str();
        filled.weights_licence = bundle.weights.licence.c_str();
        filled.weights_synthetic = bundle.weights.synthetic;
        filled.heads = read_heads(0, bundle);
        filled.threads = model->engine.threads();
        filled.height = static_cast<int32_t>(bundle.preprocessing.height);
        filled.width = static_cast<int32_t>(bundle.preprocessing.width);
        filled.notice_count = model->notices.size();
        write_struct(info, filled, "info");
    });
}

mfm_status mfm_model_notice(const mfm_model* model, size_t index, const char** line) {
    return guarded([&] {
        require(model, "model");
        put(line, item(model->notices, index, "notice").c_str(), "line");
    });
}

mfm_status mfm_model_compile(mfm_model* model, const mfm_run_options* options) {
    return guarded([&] {
        require(model, "model");
        const mfm_run_options known = read_run_options(options);
        const std::uint32_t heads = read_heads(known.heads, model->engine.bundle());
        const std::lock_guard<std::mutex> turn(model->mutex);
        model->engine.compile(heads, model->stages(known));
    });
}

mfm_status mfm_model_run(mfm_model* model, const mfm_study* study, const mfm_run_options* options,
                         mfm_result** result) {
    return guarded([&] {
        require(model, "model");
        require(result, "result");
        const mfm_run_options known = read_run_options(options);
        const Bundle& bundle = model->engine.bundle();
        const std::uint32_t heads = read_heads(known.heads, bundle);
        const StudyInput input = read_study(study);
        auto found = std::make_unique<mfm_result>();
        {
            const std::lock_guard<std::mutex> turn(model->mutex);
            found->study = model->engine.run(input, heads, model->stages(known));
        }
        found->json = to_json(found->study, bundle);
        *result = found.release();
    });
}

void mfm_result_destroy(mfm_result* result) {
    guarded([&] { delete result; });
}

// -------------------- results

mfm_status mfm_result_json(const mfm_result* result, const char** text, size_t* length) {
    return guarded([&] {
        require(result, "result");
        put(text, result->json.c_str(), "text");
        if (length != nullptr)
            *length = result->json.size();
    });
}

mfm_status mfm_result_summary(const mfm_result* result, mfm_summary* summary) {
    return guarded([&] {
        require(result, "result");
        const StudyResult& study = result->study;
        mfm_summary filled = {};
        filled.recall = study.recall ? study.recall->suggested : -1;
        for (const ViewInfo& view : study.views)
            filled.views_used |= 1u << view.view;
        for (std::size_t head = 0; head < study.heads.size(); ++head) {
            if (study.heads[head])
                filled.heads_asked |= MFM_HEAD_BIT(head);
            if (study.heads[head] && study.heads[head]->reason.empty())
                filled.heads_answered |= MFM_HEAD_BIT(head);
        }
        filled.notice_count = study.notices.size();
        filled.recall_basis_count = study.recall ? study.recall->basis.size() : 0;
        write_struct(summary, filled, "summary");
    });
}

mfm_status mfm_result_notice(const mfm_result* result, size_t index, const char** line) {
    return guarded([&] {
        require(result, "result");
        put(line, item(result->study.notices, index, "notice").c_str(), "line");
    });
}

mfm_status mfm_result_recall_basis(const mfm_result* result, size_t index, const char** line) {
    return guarded([&] {
        require(result, "result");
        if (!result->study.recall)
            fail_not_found("no answering head suggests recall or no recall");
        put(line, item(result->study.recall->basis, index, "basis").c_str(), "line");
    });
}

mfm_status mfm_result_head(const mfm_result* result, mfm_head head, mfm_head_outcome* outcome) {
    return guarded([&] {
        require(result, "result");
        if (head < 0 || head >= MFM_HEAD_COUNT)
            fail_usage("head is " + std::to_string(head) + ", allowed 0 to 3");
        const auto& found = result->study.heads[static_cast<std::size_t>(head)];
        if (!found)
            fail_not_found("this head was not asked for");
        mfm_head_outcome filled = {};
        filled.answered = found->reason.empty();
        filled.reason = filled.answered ? nullptr : found->reason.c_str();
        filled.detail = filled.answered ? nullptr : found->detail.c_str();
        write_struct(outcome, filled, "outcome");
    });
}

// -------------------- diagnosis

mfm_status mfm_result_score_count(const mfm_result* result, mfm_scope scope, size_t* count) {
    return guarded([&] { put(count, scores_of(result, scope).size(), "count"); });
}

mfm_status mfm_result_score(const mfm_result* result, mfm_scope scope, size_t index,
                            mfm_score* score) {
    return guarded([&] {
        const LabelScore& found = item(scores_of(result, scope), index, "score");
        mfm_score filled = {};
        filled.label = found.label.c_str();
        filled.value = c_text(found.value);
        filled.threshold = found.threshold.value_or(-1);
        filled.probability_count = found.probabilities.size();
        write_struct(score, filled, "score");
    });
}

mfm_status mfm_result_probability(const mfm_result* result, mfm_scope scope, size_t index,
                                  size_t probability, const char** name, double* value) {
    return guarded([&] {
        const LabelScore& found = item(scores_of(result, scope), index, "score");
        const auto& [word, number] = item(found.probabilities, probability, "probability");
        require(value, "value");
        put(name, word.c_str(), "name");
        *value = number;
    });
}

// -------------------- localization

mfm_status mfm_result_mark_count(const mfm_result* result, size_t* count) {
    return guarded([&] {
        require(result, "result");
        put(count, answer(result->study.localization, "localization").marks.size(), "count");
    });
}

mfm_status mfm_result_mark(const mfm_result* result, size_t index, mfm_mark* mark) {
    return guarded([&] {
        require(result, "result");
        const LocalizationResult& all = answer(result->study.localization, "localization");
        const Mark& found = item(all.marks, index, "mark");
        mfm_mark filled = {};
        filled.view = static_cast<mfm_view_name>(found.view);
        filled.label = found.label.c_str();
        filled.score = found.score;
        filled.box_px = c_box(found.box_px);
        filled.has_mm = found.box_mm.has_value();
        if (found.box_mm)
            filled.box_mm = c_box(*found.box_mm);
        for (const auto& [label, threshold] : all.thresholds) {
            if (label == found.label)
                filled.threshold = threshold;
        }
        write_struct(mark, filled, "mark");
    });
}

// -------------------- prognosis

mfm_status mfm_result_year_count(const mfm_result* result, size_t* count) {
    return guarded([&] {
        require(result, "result");
        put(count, answer(result->study.prognosis, "prognosis").years.size(), "count");
    });
}

mfm_status mfm_result_year(const mfm_result* result, size_t index, mfm_year* year) {
    return guarded([&] {
        require(result, "result");
        const YearRisk& found =
            item(answer(result->study.prognosis, "prognosis").years, index, "year");
        mfm_year filled = {};
        filled.year = static_cast<int32_t>(found.year);
        filled.score = found.score;
        filled.risk = found.risk;
        write_struct(year, filled, "year");
    });
}

mfm_status mfm_result_peak_count(const mfm_result* result, size_t* count) {
    return guarded([&] {
        require(result, "result");
        put(count, answer(result->study.prognosis, "prognosis").peaks.size(), "count");
    });
}

mfm_status mfm_result_peak(const mfm_result* result, size_t index, mfm_peak* peak) {
    return guarded([&] {
        require(result, "result");
        const AsymmetryPeak& found =
            item(answer(result->study.prognosis, "prognosis").peaks, index, "peak");
        mfm_peak filled = {};
        filled.year = static_cast<int32_t>(found.year);
        filled.projection = found.projection == 0 ? MFM_CC : MFM_MLO;
        filled.left_box_px = c_box(found.left_box_px);
        filled.right_box_px = c_box(found.right_box_px);
        write_struct(peak, filled, "peak");
    });
}

// -------------------- report

mfm_status mfm_result_report(const mfm_result* result, mfm_report* report) {
    return guarded([&] {
        const Report& found = report_of(result).report;
        mfm_report filled = {};
        filled.text = found.text.c_str();
        filled.lexicon_name = found.lexicon_name.c_str();
        filled.lexicon_edition = found.lexicon_edition.c_str();
        filled.composition = found.composition.c_str();
        filled.recall = found.recall;
        filled.birads_estimate = c_text(found.birads_estimate);
        filled.management = found.management.c_str();
        filled.section_count = found.sections.size();
        filled.finding_count = findings_of(result).size();
        filled.flag_count = report_of(result).flags.size();
        write_struct(report, filled, "report");
    });
}

mfm_status mfm_result_report_section(const mfm_result* result, size_t index,
                                     mfm_report_section* section) {
    return guarded([&] {
        const ReportSection& found = item(report_of(result).report.sections, index, "section");
        mfm_report_section filled = {};
        filled.name = found.name.c_str();
        filled.title = found.title.c_str();
        filled.text = found.text.c_str();
        write_struct(section, filled, "section");
    });
}

mfm_status mfm_result_report_breast(const mfm_result* result, mfm_laterality side,
                                    const char** status) {
    return guarded([&] {
        if (side != MFM_LEFT && side != MFM_RIGHT)
            fail_usage("side is " + std::to_string(side) + ", allowed: 1, 2");
        const auto& breasts = report_of(result).report.breasts;
        put(status, breasts[side == MFM_RIGHT ? 1 : 0].status.c_str(), "status");
    });
}

mfm_status mfm_result_report_finding(const mfm_result* result, size_t index,
                                     mfm_report_finding* finding) {
    return guarded([&] {
        const std::vector<SideFinding> all = findings_of(result);
        const SideFinding& found = item(all, index, "finding");
        mfm_report_finding filled = {};
        filled.side = found.side;
        filled.kind = found.finding->kind.c_str();
        filled.descriptor_count = found.finding->descriptors.size();
        write_struct(finding, filled, "finding");
    });
}

mfm_status mfm_result_report_descriptor(const mfm_result* result, size_t index, size_t descriptor,
                                        const char** name, const char** value) {
    return guarded([&] {
        const std::vector<SideFinding> all = findings_of(result);
        const ReportFinding& found = *item(all, index, "finding").finding;
        const auto& [word, meaning] = item(found.descriptors, descriptor, "descriptor");
        require(value, "value");
        put(name, word.c_str(), "name");
        *value = meaning.c_str();
    });
}

mfm_status mfm_result_report_flag(const mfm_result* result, size_t index, const char** code,
                                  const char** detail) {
    return guarded([&] {
        const ReportFlag& flag = item(report_of(result).flags, index, "flag");
        require(detail, "detail");
        put(code, flag.code.c_str(), "code");
        *detail = flag.detail.c_str();
    });
}

// -------------------- views

mfm_status mfm_result_view(const mfm_result* result, mfm_view_name view, mfm_view_result* info) {
    return guarded([&] {
        const ViewInfo& found = view_of_result(result, view);
        mfm_view_result filled = {};
        filled.view = view;
        filled.sop_instance_uid = found.sop_instance_uid.c_str();
        filled.rows = static_cast<int32_t>(found.geometry.rows);
        filled.columns = static_cast<int32_t>(found.geometry.columns);
        filled.mirrored = found.geometry.mirrored;
        filled.deviation_count = found.deviations.size();
        write_struct(info, filled, "info");
    });
}

mfm_status mfm_result_view_deviation(const mfm_result* result, mfm_view_name view, size_t index,
                                     const char** code) {
    return guarded([&] {
        put(code, item(view_of_result(result, view).deviations, index, "deviation").c_str(),
            "code");
    });
}

}  // extern "C"
