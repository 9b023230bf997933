// SHA-256 (FIPS 180-4), for the hashes of a bundle's files.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace mammofm {

class Sha256 {
  public:
    Sha256();
    void update(const void* data, std::size_t size);
    /// 64 hexadecimal digits; the object is spent afterwards.
    std::string hex();

  private:
    void fill_block(const std::uint8_t* data, std::size_t size);

    std::array<std::uint32_t, 8> state_;
    std::array<std::uint8_t, 64> block_;
    std::size_t held_ = 0;
    std::uint64_t total_ = 0;
};

}  // namespace mammofm
