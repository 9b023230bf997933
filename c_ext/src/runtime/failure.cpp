#include "failure.hpp"

#include <charconv>
#include <cmath>

namespace mammofm {
namespace {

constexpr std::size_t kLongest = 60;

}  // namespace

std::string in_quotes(std::string_view text) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string out = "'";
    for (unsigned char byte : text.substr(0, kLongest)) {
        if (byte >= 0x20 && byte < 0x7f) {
            out += static_cast<char>(byte);
        } else {
            out += "\\x";
            out += kDigits[byte >> 4];
            out += kDigits[byte & 15];
        }
    }
    return out + "'";
}

std::string general(double value) {
    if (std::isnan(value))
        return "nan";
    if (std::isinf(value))
        return value < 0 ? "-inf" : "inf";
    char buffer[32];
    auto [end, _] = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::general,
                                  /*precision=*/6);
    return {buffer, end};
}

}  // namespace mammofm
