// Memory that a mapped file takes in this process.
#pragma once

#include <cstddef>
#include <cstdint>

namespace luq {

// Takes the whole pages of a range out of the process's memory, where they are a file mapped shared and read-only, as
// llama.cpp maps models. They stay what they are and come again, from the system's cache or the disk, when something reads
// them. Other memory is not touched.
void leave_mapped_pages(const uint8_t * from, size_t n_bytes);

}  // namespace luq
