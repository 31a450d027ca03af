// Which path this CPU takes.
#pragma once

#include <string>
#include <vector>

#include "layout.h"

namespace luq {

struct Choice {
    const Path * path;  // null: none
    std::string note;   // a sentence for people, where there is something to say
};

// `wish` is the value of LUQ_KERNELS, or null. A path that is not to be had here falls back to the best that is.
Choice choose_path(const char * wish);

// All that this CPU can run, the best first, the portable ones last.
std::vector<const Path *> runnable_paths();

}  // namespace luq
