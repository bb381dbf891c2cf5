// The part of DLPack's C interface the modules read (dlpack.h, version 1.x; ABI is fixed by
// DLPack).
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace c2f {

struct DLDevice {
  int32_t device_type;
  int32_t device_id;
};
struct DLDataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // elements; may be null for contiguous tensors
  uint64_t byte_offset;
};
struct DLPackVersion {
  uint32_t major;
  uint32_t minor;
};
struct DLPackExchangeApi {
  DLPackVersion version;
  void* prev_api;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  int (*dltensor_from_py_object_no_sync)(void* py_object, DLTensor* out);
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** stream);
};

// The interface that a type of tensors offers, or nullptr.
const DLPackExchangeApi* exchange_api_of(PyTypeObject* type);

}  // namespace c2f
