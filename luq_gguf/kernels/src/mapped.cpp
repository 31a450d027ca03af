#include "mapped.h"

#if defined(__linux__)

#include <sys/mman.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>

namespace luq {
namespace {

// Looked up each time: what was a file's mapping before can be something else now.
bool is_mapped_file(uintptr_t begin, uintptr_t end) {
    std::FILE * maps = std::fopen("/proc/self/maps", "re");
    if (!maps) return false;
    char line[8192];
    bool found = false;
    while (!found && std::fgets(line, sizeof line, maps)) {
        uintptr_t first, last;
        char permissions[5];
        unsigned long inode;
        if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %lu", &first, &last, permissions, &inode) != 4) {
            continue;
        }
        found = first <= begin && end <= last && inode != 0 && std::strcmp(permissions, "r--s") == 0;
    }
    std::fclose(maps);
    return found;
}

}  // namespace

void leave_mapped_pages(const uint8_t * from, size_t n_bytes) {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), at = reinterpret_cast<uintptr_t>(from);
    const uintptr_t begin = (at + page - 1) / page * page, end = (at + n_bytes) / page * page;
    if (begin >= end || !is_mapped_file(begin, end)) return;
    madvise(reinterpret_cast<void *>(begin), end - begin, MADV_DONTNEED);  // fails for locked pages, which stay
}

}  // namespace luq

#else

void luq::leave_mapped_pages(const uint8_t *, size_t) {}

#endif
