#include "grammar.hpp"

#include <algorithm>

#include "failure.hpp"

namespace mammofm {
namespace {

// What a hostile file may cost; a report's own grammar has some hundred parts and states.
constexpr std::size_t kMostParts = 50'000;
constexpr std::size_t kMostStates = 200'000;
constexpr std::size_t kMostOptions = 1'000;
constexpr std::size_t kMostSteps = 500'000;
constexpr int kDeepest = 40;

// -------------------- the file

/// JSON to nodes: a string is fixed text, a list a series, an object by its first key.
class NodeReader {
  public:
    NodeReader(const Fields& rules, const std::string& file) : rules_(rules), file_(file) {}

    NodePointer node(const Value* value, const std::string& where, int depth) {
        if (++parts_ > kMostParts)
            fail_bundle(file_ + ": expands to more than " + std::to_string(kMostParts) + " parts");
        if (depth > kDeepest)
            fail_bundle(file_ + ": " + where + ": nested more than " + std::to_string(kDeepest) +
                        " deep");
        if (value != nullptr && value->kind == Value::Kind::text)
            return make({Node::Kind::literal, value->text, ""});
        if (value != nullptr && value->kind == Value::Kind::list)
            return nodes(Node::Kind::series, *value, where, depth);
        if (value == nullptr)
            fail_bundle(file_ + ": " + where + ": expected an object");
        return object(Fields(*value, file_ + ": " + where), where, depth);
    }

  private:
    static NodePointer make(Node node) { return std::make_shared<const Node>(std::move(node)); }

    NodePointer nodes(Node::Kind kind, const Value& list, const std::string& where, int depth) {
        Node node{kind, "", ""};
        for (const Value& item : list.items)
            node.parts.push_back(this->node(
                &item, where + "[" + std::to_string(node.parts.size()) + "]", depth + 1));
        return make(std::move(node));
    }

    NodePointer object(const Fields& fields, const std::string& where, int depth) {
        auto inner = [&](const char* key) {
            return node(fields.value().find(key), where + "." + key, depth + 1);
        };
        if (fields.has("rule")) {
            fields.only({"rule"});
            const std::string& name = fields.text("rule");
            const Value* rule = rules_.value().find(name);
            if (rule == nullptr)
                fail_bundle(fields.where() + ": unknown rule " + in_quotes(name));
            return node(rule, "rules." + name, depth + 1);
        }
        if (fields.has("either")) {
            fields.only({"either"});
            const Value* list = fields.value().find("either");
            if (list->kind != Value::Kind::list)
                fields.fail("either", "must be a list");
            return nodes(Node::Kind::either, *list, where, depth);
        }
        if (fields.has("repeat")) {
            fields.only({"repeat", "separator", "most"});
            Node node{Node::Kind::repeat, "", fields.text("separator")};
            node.most = fields.integer("most", 1, 9);
            node.parts = {inner("repeat")};
            return make(std::move(node));
        }
        if (fields.has("section")) {
            fields.only({"section", "title", "text"});
            Node node{Node::Kind::section, fields.text("section"), fields.text("title")};
            node.parts = {inner("text")};
            return make(std::move(node));
        }
        if (fields.has("finding")) {
            fields.only({"finding", "text"});
            Node node{Node::Kind::finding, fields.text("finding"), ""};
            node.parts = {inner("text")};
            return make(std::move(node));
        }
        return fields.has("by_views") ? by_views(fields, where, depth) : choice(fields);
    }

    NodePointer by_views(const Fields& fields, const std::string& where, int depth) {
        fields.only({"by_views", "cases"});
        Node node{Node::Kind::by_views, fields.choice("by_views", {"R", "L", "study"}), ""};
        const Fields cases = fields.object("cases");
        const std::vector<std::string> known =
            node.name == "study" ? std::vector<std::string>{"complete", "incomplete"}
                                 : std::vector<std::string>{"both", "CC", "MLO", "none"};
        if (node.name == "study")
            cases.only({"complete", "incomplete"});
        else
            cases.only({"both", "CC", "MLO", "none"});
        for (const std::string& name : known) {
            const Value* value = cases.value().find(name);
            if (value == nullptr)
                fail_bundle(fields.where() + ": case " + in_quotes(name) + " is missing");
            node.cases.push_back(name);
            node.parts.push_back(this->node(value, where + "." + name, depth + 1));
        }
        return make(std::move(node));
    }

    NodePointer choice(const Fields& fields) {
        fields.only({"choice", "of"});
        const Fields options = fields.object("of");
        Node node{Node::Kind::choice, "", ""};
        for (const auto& [value, _] : options.value().members) {
            node.options.emplace_back(value, options.text(value));
            if (node.options.back().second.empty())
                node.options.clear();
            if (node.options.empty())
                break;
        }
        if (node.options.empty())
            fail_bundle(fields.where() + ": 'of' must hold texts that are not empty");
        if (node.options.size() > kMostOptions)
            fail_bundle(fields.where() + ": 'of' holds more than " + std::to_string(kMostOptions) +
                        " texts");
        options_ += node.options.size();
        if (options_ > kMostStates)
            fail_bundle(file_ + ": expands to more than " + std::to_string(kMostStates) +
                        " options");
        node.name = fields.text("choice");
        return make(std::move(node));
    }

    Fields rules_;
    const std::string& file_;
    std::size_t parts_ = 0, options_ = 0;
};

/// The case of a by_views that fits the views at hand.
std::string fitting_case(const std::string& subject, const PerView<bool>& views) {
    if (subject == "study")
        return std::all_of(views.begin(), views.end(), [](bool view) { return view; })
                   ? "complete"
                   : "incomplete";
    const std::size_t side = subject == "L" ? 0 : 1;
    const bool cc = views[view_of(side, 0)], mlo = views[view_of(side, 1)];
    return cc && mlo ? "both" : cc ? "CC" : mlo ? "MLO" : "none";
}

void put(FieldValues& fields, const std::string& name, const std::string& value) {
    for (auto& [known, old] : fields) {
        if (known == name) {
            old = value;
            return;
        }
    }
    fields.emplace_back(name, value);
}

}  // namespace

const std::string* Walk::field(const std::string& name) const {
    for (const auto& [known, value] : fields) {
        if (known == name)
            return &value;
    }
    return nullptr;
}

Grammar::Grammar(const std::string& folder, const std::string& name) {
    const std::string data = read_regular_file(folder, name, kMaxJsonBytes);
    const Value value = parse_json_object(data, name);
    const Fields fields(value, name);
    fields.only({"lexicon", "rules", "report"});
    const Fields lexicon = fields.object("lexicon");
    lexicon.only({"name", "edition"});
    NodeReader reader(fields.object("rules"), name);
    root_ = reader.node(value.find("report"), "report", 0);
    lexicon_name_ = lexicon.text("name");
    lexicon_edition_ = lexicon.text("edition");
}

Language Grammar::language(const PerView<bool>& views) const {
    Language language;
    language.add_action({});
    language.last_ = language.add(*root_, language.add_state(), views);
    return language;
}

// -------------------- the automaton of texts

std::size_t Language::add_state() {
    if (edges_.size() >= kMostStates)
        fail_bundle("the report grammar has more than " + std::to_string(kMostStates) + " states");
    edges_.emplace_back();
    return edges_.size() - 1;
}

std::size_t Language::add_action(Action action) {
    if (actions_.size() >= kMostStates)
        fail_bundle("the report grammar has more than " + std::to_string(kMostStates) +
                    " options and marks");
    actions_.push_back(std::move(action));
    return actions_.size() - 1;
}

void Language::add_edge(std::size_t start, std::string text, std::size_t action, std::size_t end) {
    edges_[start].push_back({std::move(text), action, end});
}

/// Add a part that begins at a state; returns the state in which it ends.
std::size_t Language::add(const Node& node, std::size_t start, const PerView<bool>& views) {
    std::size_t end = start;
    switch (node.kind) {
        case Node::Kind::literal:
            end = add_state();
            add_edge(start, node.name, 0, end);
            return end;
        case Node::Kind::choice:
            end = add_state();
            for (const auto& [value, text] : node.options)
                add_edge(start, text, add_action({Action::Kind::field, node.name, value}), end);
            return end;
        case Node::Kind::series:
            for (const NodePointer& part : node.parts)
                end = add(*part, end, views);
            return end;
        case Node::Kind::either:
            end = add_state();
            for (const NodePointer& part : node.parts) {
                const std::size_t begin = add_state();
                add_edge(start, "", 0, begin);
                add_edge(add(*part, begin, views), "", 0, end);
            }
            return end;
        case Node::Kind::repeat:
            return add_repeat(node, start, views);
        case Node::Kind::section:
            return add_inside(*node.parts[0], start, views,
                              {Action::Kind::begin_section, node.name, node.title},
                              {Action::Kind::end_section, node.name, node.title});
        case Node::Kind::finding:
            return add_inside(*node.parts[0], start, views,
                              {Action::Kind::begin_finding, node.name, ""},
                              {Action::Kind::end_finding, node.name, ""});
        case Node::Kind::by_views: {
            const std::string wanted = fitting_case(node.name, views);
            auto at = std::find(node.cases.begin(), node.cases.end(), wanted);
            return add(*node.parts[static_cast<std::size_t>(at - node.cases.begin())], start,
                       views);
        }
    }
    return end;
}

std::size_t Language::add_inside(const Node& part, std::size_t start, const PerView<bool>& views,
                                 Action begin, Action end) {
    const std::size_t inside = add_state();
    add_edge(start, "", add_action(std::move(begin)), inside);
    const std::size_t after = add(part, inside, views);
    const std::size_t last = add_state();
    add_edge(after, "", add_action(std::move(end)), last);
    return last;
}

/// The way out is tried before another round.
std::size_t Language::add_repeat(const Node& node, std::size_t start, const PerView<bool>& views) {
    const std::size_t end = add_state();
    std::size_t at = add_state();
    add_edge(start, "", 0, at);
    for (std::int64_t round = 1;; ++round) {
        at = add(*node.parts[0], at, views);
        // A state of its own: the part's last one may be its first, if the part is empty.
        const std::size_t done = add_state();
        add_edge(at, "", 0, done);
        add_edge(done, "", 0, end);
        if (round == node.most)
            return end;
        at = add_state();
        add_edge(done, node.title, 0, at);
    }
}

// -------------------- what a text says

/// Depth first, edges in order, so that the first way found is the one that the grammar's order of
/// parts prefers.
Walk Language::read(const std::string& text) const {
    struct Step {
        std::size_t state, at, next_edge;
    };
    std::vector<Step> steps = {{0, 0, 0}};
    std::vector<std::pair<std::size_t, std::size_t>> trail;  // action, and where in the text
    std::size_t left = kMostSteps;
    while (!steps.empty()) {
        Step& step = steps.back();
        if (step.state == last_ && step.at == text.size())
            return replay(text, trail);
        if (step.next_edge == edges_[step.state].size()) {
            steps.pop_back();
            if (!trail.empty())
                trail.pop_back();
            continue;
        }
        const Arc& edge = edges_[step.state][step.next_edge++];
        if (left-- == 0)
            fail_bundle("the report grammar is too ambiguous to read a report by it");
        if (text.compare(step.at, edge.text.size(), edge.text) != 0)
            continue;
        const std::size_t at = step.at + edge.text.size();
        trail.emplace_back(edge.action, at);
        steps.push_back({edge.end, at, 0});
    }
    fail_bundle("a report does not follow the grammar of its bundle");
}

Walk Language::replay(const std::string& text,
                      const std::vector<std::pair<std::size_t, std::size_t>>& trail) const {
    struct Open {
        std::string section;
        std::size_t at;
        Walk outer;  // of a finding
    };
    Walk walk;
    std::vector<Open> open;
    std::vector<std::string> sections = {""};
    for (auto [number, at] : trail) {
        const Action& action = actions_[number];
        switch (action.kind) {
            case Action::Kind::none:
                break;
            case Action::Kind::field:
                put(walk.fields, action.name, action.value);
                break;
            case Action::Kind::begin_section:
                open.push_back({"", at, {}});
                sections.push_back(action.name);
                break;
            case Action::Kind::end_section:
                walk.sections.push_back(
                    {action.name, action.value, text.substr(open.back().at, at - open.back().at)});
                open.pop_back();
                sections.pop_back();
                break;
            case Action::Kind::begin_finding:
                open.push_back({sections.back(), at, walk});
                walk.fields.clear();
                break;
            case Action::Kind::end_finding: {
                Walk outer = std::move(open.back().outer);
                outer.findings.push_back(
                    {open.back().section, action.name, std::move(walk.fields)});
                walk = std::move(outer);
                open.pop_back();
                break;
            }
        }
    }
    return walk;
}

// -------------------- what may come next

/// Every fixed text and every option is cut on its own, so a report always becomes the tokens that
/// the network was trained on.
TokenAutomaton Language::automaton(const Tokenizer& tokenizer) const {
    TokenAutomaton automaton;
    automaton.tokens_.resize(edges_.size());
    automaton.jumps_.resize(edges_.size());
    automaton.last_ = last_;
    for (std::size_t state = 0; state < edges_.size(); ++state) {
        for (const Arc& edge : edges_[state]) {
            const std::vector<Token> tokens = tokenizer.encode(edge.text);
            if (tokens.empty()) {
                automaton.jumps_[state].push_back(edge.end);
                continue;
            }
            std::size_t start = state;
            for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
                const std::size_t following = automaton.add_state();
                automaton.tokens_[start].emplace_back(tokens[i], following);
                start = following;
            }
            automaton.tokens_[start].emplace_back(tokens.back(), edge.end);
        }
    }
    automaton.remove_dead_ends();
    return automaton;
}

std::size_t TokenAutomaton::add_state() {
    if (tokens_.size() >= kMostStates)
        fail_bundle("the report grammar has more than " + std::to_string(kMostStates) + " states");
    tokens_.emplace_back();
    jumps_.emplace_back();
    return tokens_.size() - 1;
}

TokenAutomaton::States TokenAutomaton::closed(std::vector<std::size_t> states) const {
    std::vector<bool> seen(tokens_.size());
    States found;
    while (!states.empty()) {
        const std::size_t state = states.back();
        states.pop_back();
        if (seen[state])
            continue;
        seen[state] = true;
        found.push_back(state);
        states.insert(states.end(), jumps_[state].begin(), jumps_[state].end());
    }
    std::sort(found.begin(), found.end());
    return found;
}

TokenAutomaton::States TokenAutomaton::start() const {
    return closed({0});
}

std::vector<Token> TokenAutomaton::allowed(const States& states) const {
    std::vector<Token> found;
    for (std::size_t state : states) {
        for (auto [token, _] : tokens_[state])
            found.push_back(token);
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
}

TokenAutomaton::States TokenAutomaton::after(const States& states, Token token) const {
    std::vector<std::size_t> reached;
    for (std::size_t state : states) {
        for (auto [edge, end] : tokens_[state]) {
            if (edge == token)
                reached.push_back(end);
        }
    }
    return closed(std::move(reached));
}

/// All states, each after those that it leads to.
std::vector<std::size_t> TokenAutomaton::latest_first() const {
    std::vector<std::size_t> order;
    std::vector<bool> seen(tokens_.size());
    std::vector<std::pair<std::size_t, bool>> waiting = {{0, false}};
    while (!waiting.empty()) {
        auto [state, done] = waiting.back();
        waiting.pop_back();
        if (done) {
            order.push_back(state);
            continue;
        }
        if (seen[state])
            continue;
        seen[state] = true;
        waiting.emplace_back(state, true);
        for (auto [_, end] : tokens_[state])
            waiting.emplace_back(end, false);
        for (std::size_t end : jumps_[state])
            waiting.emplace_back(end, false);
    }
    return order;
}

std::size_t TokenAutomaton::longest() const {
    std::vector<std::size_t> count(tokens_.size());
    for (std::size_t state : latest_first()) {
        for (auto [_, end] : tokens_[state])
            count[state] = std::max(count[state], 1 + count[end]);
        for (std::size_t end : jumps_[state])
            count[state] = std::max(count[state], count[end]);
    }
    return count[0];
}

/// Drop edges into states from which no report can be completed.
void TokenAutomaton::remove_dead_ends() {
    std::vector<bool> alive(tokens_.size());
    alive[last_] = true;
    for (std::size_t state : latest_first()) {
        for (auto [_, end] : tokens_[state])
            alive[state] = alive[state] || alive[end];
        for (std::size_t end : jumps_[state])
            alive[state] = alive[state] || alive[end];
    }
    if (!alive[0])
        fail_bundle("the report grammar allows no report on these views");
    for (std::size_t state = 0; state < tokens_.size(); ++state) {
        auto& edges = tokens_[state];
        auto dead = [&](const auto& edge) { return !alive[edge.second]; };
        edges.erase(std::remove_if(edges.begin(), edges.end(), dead), edges.end());
        auto& ends = jumps_[state];
        auto dead_end = [&](std::size_t end) { return !alive[end]; };
        ends.erase(std::remove_if(ends.begin(), ends.end(), dead_end), ends.end());
    }
}

}  // namespace mammofm
