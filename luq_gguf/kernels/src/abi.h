// Whether the ggml of this process is laid out as the one that this library was built with.
#pragma once

#include <string>

#include "ggml_api.h"

namespace luq {

// A sentence that says what differs, or nothing. Calls no function whose effect depends on what is being checked.
std::string abi_difference(const Ggml & ggml);

}  // namespace luq
