// Stands for libcuda.so.1: the calls with which CuPy loads and launches a kernel, each written as a
// line to the file C2F_DRIVER_CALLS. A kernel's one argument is C2F_ARGUMENT_BYTES long.
#include <cstdio>
#include <cstdlib>

namespace {

struct Handle {
  char name[256];
};

template <class... Parts>
int say(const char* format, Parts... parts) {
  std::FILE* file = std::fopen(std::getenv("C2F_DRIVER_CALLS"), "a");
  std::fprintf(file, format, parts...);
  std::fclose(file);
  return 0;
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }

int cuModuleLoadData(void** module, const void* image) {
  *module = new Handle{};
  return say("load %.4s\n", static_cast<const char*>(image));
}

int cuModuleGetFunction(void** function, void*, const char* name) {
  Handle* found = new Handle{};
  std::snprintf(found->name, sizeof(found->name), "%s", name);
  *function = found;
  return say("function %s\n", name);
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  return say("attribute %s %d %d\n", static_cast<Handle*>(function)->name, attribute, value);
}

int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   void* stream, void** arguments, void** extra) {
  say("launch %s (%u %u %u) (%u %u %u) %u %p %d ", static_cast<Handle*>(function)->name, grid_x,
      grid_y, grid_z, block_x, block_y, block_z, shared, stream, extra != nullptr);
  const auto* argument = static_cast<const unsigned char*>(arguments[0]);
  for (int i = 0; i < std::atoi(std::getenv("C2F_ARGUMENT_BYTES")); ++i) say("%02x", argument[i]);
  return say("\n");
}

}  // extern "C"
