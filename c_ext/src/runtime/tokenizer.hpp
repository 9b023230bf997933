// The tokenizer of a bundle's report head: byte-level BPE without pre-tokenization, which is what
// the exporter writes. Any other kind in tokenizer.json is refused, for a guess would be another
// language than the one the network was trained on.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "json_read.hpp"

namespace mammofm {

using Token = std::int64_t;

class Tokenizer {
  public:
    /// Read `name` in `folder`; raises MFM_ERROR_UNSUPPORTED for another kind of tokenizer.
    Tokenizer(const std::string& folder, const std::string& name);

    /// Tokens in the vocabulary.
    std::size_t size() const { return words_.size(); }
    std::vector<Token> encode(const std::string& text) const;
    /// The text; special tokens are left out.
    std::string decode(const std::vector<Token>& tokens) const;

  private:
    struct Merge {
        std::size_t rank;
        Token token;
    };
    using Vocabulary = std::unordered_map<std::string, Token>;

    void read_vocabulary(const Fields& model, Vocabulary& vocabulary);
    void read_merges(const Fields& model, const Vocabulary& vocabulary);
    void read_added(const Fields& fields, const Vocabulary& vocabulary);
    void read_bytes(const Vocabulary& vocabulary);

    std::string name_;
    std::vector<std::string> words_;  // by token, as bytes
    std::vector<bool> special_;       // by token
    std::vector<std::string> added_;  // texts that are tokens by themselves
    std::map<std::pair<Token, Token>, Merge> merges_;
    Token of_byte_[256];
};

}  // namespace mammofm
