// The self-test as a program that needs no Python, for processors and systems that are only emulated:
// `self_test src/whisq/kernels/self_test.txt` exits 0 where every instruction set gives every stored hash.
#include <cstdio>
#include <fstream>
#include <map>

#include "dispatch.h"
#include "self_test.h"

int main(int argc, char** argv) {
    std::map<std::pair<std::string, std::string>, std::string> stored;
    std::ifstream file(argc == 2 ? argv[1] : "");
    for (std::string type, method, hash; file >> type >> method >> hash;) stored[{type, method}] = hash;
    if (stored.empty()) {
        std::fprintf(stderr, "error: no hashes were read\nhint: self_test src/whisq/kernels/self_test.txt\n");
        return 1;
    }
    bool is_right = true;
    for (const whisq::Kernels* kernels : whisq::available_kernels()) {
        const auto found = whisq::self_test(*kernels);
        size_t n_equal = 0;
        for (const auto& [type, method, hash] : found) {
            const std::string& wanted = stored[{type, method}];
            n_equal += hash == wanted;
            if (hash != wanted)
                std::printf("%s: %s %s: %s, expected %s\n", kernels->name, type.c_str(), method.c_str(), hash.c_str(),
                            wanted.c_str());
        }
        std::printf("%s, %d lanes: %zu of %zu hashes equal\n", kernels->name, kernels->lanes, n_equal, stored.size());
        is_right = is_right && n_equal == stored.size();
    }
    return is_right ? 0 : 1;
}
