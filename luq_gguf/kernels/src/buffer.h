// The buffer type that holds repacked tensors, for the CPU backend's list of extra ones.
#pragma once

#include "blocks.h"
#include "ggml_api.h"

namespace luq {

// What the callbacks need; lives as long as the process.
struct Runtime {
    Ggml ggml;
    Grid grid;
    const Path * path = nullptr;
};

// Made once; `runtime` must stay.
ggml_backend_buffer_type_t make_buffer_type(Runtime & runtime);

}  // namespace luq
