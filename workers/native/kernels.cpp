extern "C" __attribute__((visibility("default"))) int bitbudget_kernels() { return 1; }
