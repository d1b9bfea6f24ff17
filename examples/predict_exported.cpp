// Predict with a model that `blemish export` wrote, in C++ with OpenVINO alone; it reads .onnx and .xml files.
//
//     pip install openvino && ov=$(python -c "import openvino; print(openvino.__path__[0])")
//     g++ -std=c++17 -O2 examples/predict_exported.cpp -I $ov/include $ov/libs/libopenvino.so* -Wl,-rpath,$ov/libs -o predict
//     ./predict model.onnx part.ppm
//
// Images are read as binary PPM, which needs no library; a camera's RGB buffer goes into the tensor as it is.

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>

#include <openvino/openvino.hpp>

// Returns the image as uint8 (1, H, W, 3) RGB.
ov::Tensor read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    std::size_t width = 0, height = 0, largest = 0;
    file >> kind >> width >> height >> largest;
    if (!file || kind != "P6" || largest != 255 || file.get() == EOF)
        throw std::runtime_error(path + ": expected a binary PPM of 8 bits");
    ov::Tensor image(ov::element::u8, {1, height, width, 3});
    if (!file.read(reinterpret_cast<char*>(image.data<std::uint8_t>()), image.get_byte_size()))
        throw std::runtime_error(path + ": expected more pixels");
    return image;
}

int main(int n_arguments, char** arguments) try {
    if (n_arguments < 3) {
        std::cerr << "usage: predict MODEL IMAGE.ppm...\n";
        return EXIT_FAILURE;
    }
    ov::Core core;
    // Some processors compute in bfloat16 unless told otherwise, which changes scores in the third digit.
    auto model = core.compile_model(arguments[1], "CPU", ov::hint::inference_precision(ov::element::f32));
    auto request = model.create_infer_request();
    for (int i = 2; i < n_arguments; ++i) {
        request.set_tensor("image", read_ppm(arguments[i]));
        request.infer();
        const float score = *request.get_tensor("score").data<float>();
        const float p_value = *request.get_tensor("p_value").data<float>();
        const bool label = *static_cast<const bool*>(request.get_tensor("label").data());
        const auto mask = request.get_tensor("mask");  // (1, H, W)
        const auto* pixels = static_cast<const bool*>(mask.data());
        std::size_t area = 0;
        for (std::size_t k = 0; k < mask.get_size(); ++k) area += pixels[k];
        std::cout << arguments[i] << ": " << (label ? "DEFECTIVE" : "good") << ", score " << score << ", p " << p_value
                  << ", " << area << " pixels above the threshold\n";
    }
    return EXIT_SUCCESS;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return EXIT_FAILURE;
}
