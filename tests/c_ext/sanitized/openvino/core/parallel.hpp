// Stands in for OpenVINO's header: the same calls, one after another on the calling thread, so that
// the kernels and their dispatcher run under sanitizers without an OpenVINO that is built with them.
#pragma once

inline int parallel_get_max_threads() {
    return 3;
}

namespace ov {

template <typename Task>
void parallel_nt(int threads, const Task& task) {
    for (int i = 0; i < threads; ++i)
        task(i, threads);
}

}  // namespace ov
