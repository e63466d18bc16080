import static org.bytedeco.opencv.global.opencv_core.CV_32F;
import static org.bytedeco.opencv.global.opencv_core.getVersionString;
import static org.bytedeco.opencv.global.opencv_dnn.readNetFromONNX;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.opencv.opencv_core.Mat;
import org.bytedeco.opencv.opencv_dnn.Net;

/** Runs an ONNX model in QuPath's build of OpenCV: MODEL INPUT OUTPUT N C H W, of raw little-endian float32. */
public class OpenCV {
    public static void main(String[] a) throws Exception {
        Net net = readNetFromONNX(a[0]);
        int[] shape = new int[4];
        for (int i = 0; i < 4; i++) shape[i] = Integer.parseInt(a[3 + i]);
        float[] x = new float[shape[0] * shape[1] * shape[2] * shape[3]];
        ByteBuffer.wrap(Files.readAllBytes(Path.of(a[1]))).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(x);
        net.setInput(new Mat(shape, CV_32F, new FloatPointer(x)));
        Mat out = net.forward();
        float[] y = new float[(int) out.total()];
        new FloatPointer(out.data()).get(y);
        ByteBuffer b = ByteBuffer.allocate(4 * y.length).order(ByteOrder.LITTLE_ENDIAN);
        b.asFloatBuffer().put(y);
        Files.write(Path.of(a[2]), b.array());
        System.out.println(getVersionString().getString());
    }
}
