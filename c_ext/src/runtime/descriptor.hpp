// A file that is open for reading, and closed whatever happens.

#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace mammofm {

class Descriptor {
  public:
    /// Never follows a link and never waits for a pipe in the file's place.
    explicit Descriptor(const std::string& path)
        : number_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (number_ >= 0)
            close(number_);
    }

    /// Negative where it could not be opened; errno says why.
    int number() const { return number_; }

    /// As read(2), begun anew where a signal of the host program interrupts it.
    ssize_t read_some(void* data, std::size_t size) const {
        ssize_t count;
        do
            count = read(number_, data, size);
        while (count < 0 && errno == EINTR);
        return count;
    }

  private:
    int number_;
};

}  // namespace mammofm
