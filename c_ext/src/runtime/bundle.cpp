#include "bundle.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <set>

#include "descriptor.hpp"
#include "failure.hpp"
#include "json_read.hpp"
#include "sha256.hpp"
#include "views.hpp"

namespace mammofm {
namespace {

const char kDescription[] = "bundle.json";
const char kSignature[] = "bundle.sig";
constexpr std::int64_t kSchemaVersion = 2;
constexpr std::int64_t kMostCells = 1 << 20;  // of one dimension of a feature map
constexpr std::size_t kLongestName = 200;
constexpr std::size_t kChunk = 1 << 20;

bool is_letter_or_digit(char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

bool is_plain_name(const std::string& name) {
    if (name.empty() || name.size() > kLongestName || name == kDescription || name == kSignature)
        return false;
    auto inner = [](char c) {
        return is_letter_or_digit(c) || c == '_' || c == '.' || c == ' ' || c == '-';
    };
    bool first = is_letter_or_digit(name[0]) || name[0] == '_';
    return first && std::all_of(name.begin(), name.end(), inner);
}

bool is_sha256(const std::string& text) {
    auto hexadecimal = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    return text.size() == 64 && std::all_of(text.begin(), text.end(), hexadecimal);
}

/// Two to four numbers of at most nine digits with points between.
bool is_version(const std::string& text) {
    std::size_t parts = 1, digits = 0;
    for (char c : text) {
        if (c == '.') {
            if (digits == 0)
                return false;
            ++parts;
            digits = 0;
        } else if (c < '0' || c > '9' || ++digits > 9) {
            return false;
        }
    }
    return digits > 0 && parts >= 2 && parts <= 4;
}

// -------------------- files

std::string sha256_of(const std::string& path, const std::string& name) {
    const Descriptor file(path);
    if (file.number() < 0)
        fail_bundle(name + " cannot be read as a regular file");
    Sha256 digest;
    std::unique_ptr<char[]> piece(new char[kChunk]);
    ssize_t count;
    while ((count = file.read_some(piece.get(), kChunk)) > 0)
        digest.update(piece.get(), static_cast<std::size_t>(count));
    if (count < 0)
        fail_bundle(name + " cannot be read as a regular file");
    return digest.hex();
}

void verify(const std::string& folder, const std::string& name, const FileRecord& record) {
    const std::string path = folder + "/" + name;
    struct stat about;
    if (lstat(path.c_str(), &about) != 0 || !S_ISREG(about.st_mode))
        fail_bundle(name + " is missing from the bundle, or not a regular file; copy it anew");
    if (about.st_size != record.bytes)
        fail_bundle(name + " has " + std::to_string(about.st_size) + " bytes, the bundle lists " +
                    std::to_string(record.bytes) + "; copy the bundle anew");
    if (sha256_of(path, name) != record.sha256)
        fail_bundle(name + " was altered: its SHA-256 differs; copy the bundle anew");
}

std::map<std::string, FileRecord> read_files(const Fields& fields) {
    std::map<std::string, FileRecord> records;
    for (const auto& [name, entry] : fields.items()) {
        if (!is_plain_name(name))
            fail_bundle(std::string(kDescription) + ": " + in_quotes(name) +
                        " is not a plain file name; export the bundle anew");
        const std::string& sha256 = entry.text("sha256");
        if (!is_sha256(sha256))
            fail_bundle(entry.where() + ": 'sha256' must be 64 hexadecimal digits");
        records[name] = {entry.integer("bytes", 0, std::int64_t{1} << 40), sha256};
    }
    return records;
}

// -------------------- the description

void check_format(const Fields& fields) {
    const Value* format = fields.value().find("format");
    if (format == nullptr || format->text != "mammofm-bundle")
        fail_bundle(std::string(kDescription) +
                    ": not a mammofm-bundle (its 'format' says otherwise)");
    std::int64_t version = fields.integer("schema_version", 1, 1'000'000);
    const std::string says =
        std::string(kDescription) + ": schema version " + std::to_string(version);
    const std::string known = std::to_string(kSchemaVersion);
    if (version < kSchemaVersion)
        fail_bundle(says + " is older than " + known +
                    ", the only one this program reads; export the bundle anew");
    if (version > kSchemaVersion)
        fail_bundle(says + " is newer than " + known +
                    ", the newest this program reads; update mammofm-lite");
}

std::string read_made_with(const Fields& fields) {
    for (const char* key : {"mammofm_lite", "openvino"}) {
        const std::string& version = fields.text(key);
        if (!is_version(version))
            fields.fail(key, "is " + in_quotes(version) + ", not a version number");
    }
    return fields.text("openvino");
}

PreprocessingSpec read_preprocessing(const Fields& fields) {
    PreprocessingSpec spec;
    spec.height = fields.integer("height", 32, 8192);
    spec.width = fields.integer("width", 32, 8192);
    spec.border_px = fields.integer("border_px", 0, 100);
    spec.background_threshold = static_cast<int>(fields.integer("background_threshold", 0, 254));
    spec.mirror_right = fields.choice("mirror", {"none", "right"}) == "right";
    return spec;
}

EncoderSpec read_encoder(const Fields& fields) {
    EncoderSpec spec;
    const Fields outputs = fields.object("outputs");
    for (const auto& [key, _] : outputs.value().members)
        spec.outputs[key] = outputs.integers(key, 1, kMostCells);
    spec.model = fields.text("model");
    return spec;
}

template <typename T>
void check_distinct(const Fields& fields, const std::string& key, const std::vector<T>& names) {
    std::set<T> seen;
    for (const T& name : names) {
        if (!seen.insert(name).second) {
            if constexpr (std::is_same_v<T, std::string>)
                fields.fail(key, "names " + in_quotes(name) + " twice");
            else
                fields.fail(key, "names " + std::to_string(name) + " twice");
        }
    }
}

Rule read_rule(const std::string& name) {
    return name == "mean" ? Rule::mean : name == "max" ? Rule::max : Rule::highest_class;
}

LabelSpec read_label(const Fields& fields) {
    LabelSpec label;
    bool binary = fields.choice("kind", {"binary", "categorical", "zero_shot"}) == "binary";
    if (!binary)
        label.classes = fields.texts("classes");
    if (!binary && label.classes.size() < 2)
        fail_bundle(fields.where() + ": 'classes' needs two names or more");
    check_distinct(fields, "classes", label.classes);
    label.name = fields.text("name");
    label.threshold = fields.optional_number("threshold", 0, 1);
    label.breast = read_rule(binary ? fields.choice("breast", {"mean", "max"})
                                    : fields.choice("breast", {"mean"}));
    label.study = read_rule(binary ? fields.choice("study", {"mean", "max"})
                                   : fields.choice("study", {"mean", "highest_class"}));
    label.recall = fields.flag("recall");
    return label;
}

DiagnosisMember read_diagnosis(const Fields& fields) {
    DiagnosisMember member;
    for (const Fields& entry : fields.objects("labels"))
        member.labels.push_back(read_label(entry));
    if (member.labels.empty())
        fail_bundle(fields.where() + ": 'labels' is empty");
    member.model = fields.text("model");
    member.encoder = fields.text("encoder");
    return member;
}

LocalizationMember read_detector(const Fields& fields) {
    LocalizationMember member;
    member.labels = fields.texts("labels");
    if (member.labels.empty())
        fail_bundle(fields.where() + ": 'labels' is empty");
    member.model = fields.text("model");
    member.encoder = fields.text("encoder");
    member.threshold = fields.number("threshold", 0, 1);
    return member;
}

PrognosisMember::Pair read_pair(const Fields& fields, const char* key) {
    std::vector<std::int64_t> pair = fields.integers(key, 1, kMostCells, 2);
    return {pair[0], pair[1]};
}

PrognosisMember read_prognosis(const Fields& fields) {
    PrognosisMember member;
    member.years = fields.integers("years", 1, 100);
    auto not_rising = [](std::int64_t one, std::int64_t next) { return next <= one; };
    if (member.years.empty() || std::adjacent_find(member.years.begin(), member.years.end(),
                                                   not_rising) != member.years.end())
        fail_bundle(fields.where() + ": 'years' must be rising and not empty");
    member.model = fields.text("model");
    member.encoder = fields.text("encoder");
    member.map = read_pair(fields, "map");
    member.window = read_pair(fields, "window");
    member.stride = read_pair(fields, "stride");
    member.latent = fields.choice("alignment", {"none", "latent"}) == "latent";
    return member;
}

ReportSpec read_report(const Fields& fields) {
    return {fields.text("fusion"),  fields.text("decoder"), fields.text("tokenizer"),
            fields.text("grammar"), fields.text("encoder"), fields.integer("max_tokens", 8, 4096)};
}

TextSpec read_text(const Fields& fields) {
    fields.choice("agreement", {"exact", "cells"});
    fields.integer("max_length", 3, 8192);
    fields.integer("vocabulary", 3, 1 << 24);
    fields.text("architecture");
    return {fields.text("encoder"), fields.text("model"), fields.text("match"),
            fields.text("tokenizer"), fields.integer("size", 1, kMostCells)};
}

template <typename Read>
auto read_members(const Fields& fields, Read read) {
    std::vector<decltype(read(fields))> members;
    for (const Fields& entry : fields.objects("members"))
        members.push_back(read(entry));
    if (members.empty())
        fail_bundle(fields.where() + ": 'members' is empty");
    return members;
}

/// The names that the members of a head answer, none of which two may answer.
template <typename Member, typename Names>
void check_members(const Fields& fields, const char* key, const std::vector<Member>& members,
                   Names names) {
    decltype(names(members[0])) all;
    for (const Member& member : members) {
        auto own = names(member);
        all.insert(all.end(), own.begin(), own.end());
    }
    check_distinct(fields, key, all);
}

std::vector<std::string> label_names(const DiagnosisMember& member) {
    std::vector<std::string> names;
    for (const LabelSpec& label : member.labels)
        names.push_back(label.name);
    return names;
}

void read_heads(const Fields& heads, Bundle& bundle) {
    for (const auto& [name, _] : heads.value().members) {
        if (std::find(kHeadNames.begin(), kHeadNames.end(), name) == kHeadNames.end())
            fail_bundle(std::string(kDescription) + ": unknown head " + in_quotes(name));
    }
    if (heads.has("diagnosis")) {
        const Fields fields = heads.object("diagnosis");
        bundle.diagnosis = read_members(fields, read_diagnosis);
        check_members(fields, "labels", bundle.diagnosis, label_names);
    }
    if (heads.has("localization")) {
        const Fields fields = heads.object("localization");
        bundle.localization = read_members(fields, read_detector);
        check_members(fields, "labels", bundle.localization,
                      [](const LocalizationMember& member) { return member.labels; });
    }
    if (heads.has("prognosis")) {
        const Fields fields = heads.object("prognosis");
        bundle.prognosis = read_members(fields, read_prognosis);
        check_members(fields, "years", bundle.prognosis,
                      [](const PrognosisMember& member) { return member.years; });
    }
    if (heads.has("report"))
        bundle.report = read_report(heads.object("report"));
}

// -------------------- what refers to what

/// Both halves are listed; and the name must not lead OpenVINO to a parser of other formats.
void check_graph_files(const Bundle& bundle, const std::string& name) {
    bundle.file(name);
    if (name.size() < 5 || name.substr(name.size() - 4) != ".xml")
        fail_bundle(std::string(kDescription) + ": the graph " + in_quotes(name) +
                    " is not named *.xml");
    bundle.file(Bundle::weights_file(name));
}

template <typename Member>
void check_head(const Bundle& bundle, const char* head, const Member& member) {
    if (bundle.encoders.count(member.encoder) == 0)
        fail_bundle(std::string(kDescription) + ": head " + in_quotes(head) +
                    " names unknown encoder " + in_quotes(member.encoder));
}

void check_references(const Bundle& bundle) {
    for (const auto& [_, encoder] : bundle.encoders)
        check_graph_files(bundle, encoder.model);
    auto check = [&](const char* head, const auto& members) {
        for (const auto& member : members) {
            check_head(bundle, head, member);
            check_graph_files(bundle, member.model);
        }
    };
    check("diagnosis", bundle.diagnosis);
    check("localization", bundle.localization);
    check("prognosis", bundle.prognosis);
    if (bundle.report) {
        check_head(bundle, "report", *bundle.report);
        check_graph_files(bundle, bundle.report->fusion);
        check_graph_files(bundle, bundle.report->decoder);
        bundle.file(bundle.report->tokenizer);
        bundle.file(bundle.report->grammar);
    }
    if (bundle.text) {
        if (bundle.encoders.count(bundle.text->encoder) == 0)
            fail_bundle(std::string(kDescription) + ": 'text' names unknown encoder " +
                        in_quotes(bundle.text->encoder));
        check_graph_files(bundle, bundle.text->model);
        check_graph_files(bundle, bundle.text->match);
        bundle.file(bundle.text->tokenizer);
    }
}

WeightsInfo read_weights(const Fields& fields) {
    const Value* restricted = fields.value().find("restricted");
    bool given = restricted != nullptr && restricted->kind != Value::Kind::null;
    return {fields.flag("synthetic"), fields.text("licence"), fields.text("notice"),
            given && fields.flag("restricted")};
}

Bundle assemble(const Fields& fields) {
    Bundle bundle;
    bundle.weights = read_weights(fields.object("weights"));
    for (const auto& [name, entry] : fields.object("encoders").items())
        bundle.encoders[name] = read_encoder(entry);
    bundle.name = fields.text("name");
    bundle.version = fields.text("version");
    bundle.intended_use = fields.text("intended_use");
    bundle.precision = fields.choice("precision", {"f32", "f32_f16_weights", "int8"});
    bundle.made_with_openvino = read_made_with(fields.object("made_with"));
    bundle.preprocessing = read_preprocessing(fields.object("preprocessing"));
    read_heads(fields.object("heads"), bundle);
    fields.object("self_check");
    if (fields.has("text"))
        bundle.text = read_text(fields.object("text"));
    return bundle;
}

}  // namespace

bool Bundle::has(std::size_t head) const {
    switch (head) {
        case MFM_DIAGNOSIS:
            return !diagnosis.empty();
        case MFM_LOCALIZATION:
            return !localization.empty();
        case MFM_PROGNOSIS:
            return !prognosis.empty();
        default:
            return report.has_value();
    }
}

std::string Bundle::weights_file(const std::string& graph) {
    return graph.substr(0, graph.rfind('.')) + ".bin";
}

std::string Bundle::file(const std::string& name) const {
    if (files.count(name) == 0)
        fail_bundle(std::string(kDescription) + ": refers to " + in_quotes(name) +
                    ", which 'files' does not list");
    return path + "/" + name;
}

std::vector<std::string> Bundle::notices() const {
    std::vector<std::string> lines = {"Not a medical device. " + intended_use};
    if (weights.synthetic)
        lines.push_back("SYNTHETIC WEIGHTS: every number, mark and sentence is meaningless.");
    if (weights.restricted)
        lines.push_back("Licence of the weights: " + weights.licence +
                        "; restricted: " + weights.notice);
    else if (!weights.notice.empty())
        lines.push_back(weights.notice);
    return lines;
}

std::vector<const LabelSpec*> Bundle::labels() const {
    std::vector<const LabelSpec*> all;
    for (const DiagnosisMember& member : diagnosis) {
        for (const LabelSpec& label : member.labels)
            all.push_back(&label);
    }
    return all;
}

Bundle open_bundle(const std::string& path) {
    struct stat about;
    if (stat(path.c_str(), &about) != 0 || !S_ISDIR(about.st_mode))
        fail_bundle("no bundle directory at " + in_quotes(path));
    const std::string description = read_regular_file(path, kDescription, kMaxJsonBytes);
    const Value value = parse_json_object(description, kDescription);
    const Fields fields(value, kDescription);
    check_format(fields);
    std::map<std::string, FileRecord> files = read_files(fields.object("files"));
    for (const auto& [name, record] : files)
        verify(path, name, record);
    Bundle bundle = assemble(fields);
    bundle.path = path;
    bundle.files = std::move(files);
    Sha256 digest;
    digest.update(description.data(), description.size());
    bundle.sha256 = digest.hex();
    check_references(bundle);
    return bundle;
}

}  // namespace mammofm
