// What OpenVINO does to the stack of signal handlers, undone. As mammofm_lite/_alternate_stack.py.
#pragma once

#include <csignal>

namespace mammofm {

/// While it lives anything may be done to it; then this thread has the alternate signal stack again
/// that it had. OpenVINO's CPU plugin sets one of its own, and leaves it set when its memory is
/// gone, if several plugins go in another order than they came, or in another thread.
class AlternateStack {
  public:
    AlternateStack() { sigaltstack(nullptr, &m_own); }
    ~AlternateStack() { sigaltstack(&m_own, nullptr); }
    AlternateStack(const AlternateStack&) = delete;
    AlternateStack& operator=(const AlternateStack&) = delete;

  private:
    stack_t m_own{};
};

}  // namespace mammofm
