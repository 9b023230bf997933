// The language of a bundle's reports: what may be written, and what a written report says.
//
// As mammofm_lite/grammar.py. Here both uses share one automaton: its edges carry the fixed texts
// and options of the grammar, and marks where sections and findings begin and end. Cut into tokens
// it tells the decoder what may come next; followed over a text it gives the fields.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "json_read.hpp"
#include "tokenizer.hpp"
#include "views.hpp"

namespace mammofm {

/// A field, in the order of first mention; a later value replaces an earlier one.
using FieldValues = std::vector<std::pair<std::string, std::string>>;

/// What was met on the way through a text.
struct Walk {
    struct Section {
        std::string name, title, text;
    };
    struct Finding {
        std::string section, kind;
        FieldValues descriptors;
    };

    FieldValues fields;
    std::vector<Section> sections;
    std::vector<Finding> findings;

    /// Value of a field; null if there is none.
    const std::string* field(const std::string& name) const;
};

struct Node;
using NodePointer = std::shared_ptr<const Node>;

/// A part of the grammar.
struct Node {
    enum class Kind { literal, choice, series, either, repeat, section, finding, by_views };

    Kind kind;
    std::string name;   // of a choice, section or finding; subject of by_views; text of a literal
    std::string title;  // of a section; separator of a repeat
    std::int64_t most = 0;                                          // of a repeat
    std::vector<std::pair<std::string, std::string>> options = {};  // of a choice: value, text
    std::vector<NodePointer> parts = {};  // of all others; of by_views its cases
    std::vector<std::string> cases = {};  // names of the parts of by_views
};

/// What an edge does besides its text.
struct Action {
    enum class Kind { none, field, begin_section, end_section, begin_finding, end_finding };

    Kind kind = Kind::none;
    std::string name, value;  // field and value, section and title, or kind of finding
};

struct Arc {
    std::string text;  // may be empty
    std::size_t action;
    std::size_t end;
};

/// An automaton over the tokens of a language, without cycles; state 0 is the start.
class TokenAutomaton {
  public:
    using States = std::vector<std::size_t>;  // rising

    States start() const;
    /// Tokens that may come next, rising; none when the report is complete.
    std::vector<Token> allowed(const States& states) const;
    States after(const States& states, Token token) const;
    /// Tokens of the longest report.
    std::size_t longest() const;

  private:
    friend class Language;

    std::size_t add_state();
    States closed(std::vector<std::size_t> states) const;
    std::vector<std::size_t> latest_first() const;
    void remove_dead_ends();

    std::vector<std::vector<std::pair<Token, std::size_t>>> tokens_;
    std::vector<std::vector<std::size_t>> jumps_;
    std::size_t last_ = 0;
};

/// A grammar with the views settled.
class Language {
  public:
    /// What a whole text says.
    Walk read(const std::string& text) const;
    TokenAutomaton automaton(const Tokenizer& tokenizer) const;

  private:
    friend class Grammar;

    std::size_t add_state();
    std::size_t add_action(Action action);
    void add_edge(std::size_t start, std::string text, std::size_t action, std::size_t end);
    std::size_t add(const Node& node, std::size_t start, const PerView<bool>& views);
    std::size_t add_inside(const Node& part, std::size_t start, const PerView<bool>& views,
                           Action begin, Action end);
    std::size_t add_repeat(const Node& node, std::size_t start, const PerView<bool>& views);
    Walk replay(const std::string& text,
                const std::vector<std::pair<std::size_t, std::size_t>>& trail) const;

    std::vector<std::vector<Arc>> edges_;  // per state, in the order in which they are tried
    std::vector<Action> actions_;
    std::size_t last_ = 0;
};

/// A report language for any set of views, and the lexicon whose terms it uses.
class Grammar {
  public:
    Grammar(const std::string& folder, const std::string& name);

    const std::string& lexicon_name() const { return lexicon_name_; }
    const std::string& lexicon_edition() const { return lexicon_edition_; }
    Language language(const PerView<bool>& views) const;

  private:
    std::string lexicon_name_, lexicon_edition_;
    NodePointer root_;
};

}  // namespace mammofm
