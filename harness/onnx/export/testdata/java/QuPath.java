import java.nio.file.Path;
import java.util.Arrays;
import qupath.bioimageio.spec.Model;

/** Opens packages with QuPath's parser and prints, a line each, what it has understood. */
public class QuPath {
    public static void main(String[] paths) throws Exception {
        for (String p : paths) {
            Model m = Model.parse(Path.of(p));
            var in = m.getInputs().get(0);
            var out = m.getOutputs().get(0);
            var onnx = m.getWeights("onnx");
            System.out.println(String.join("|", m.getFormatVersion(), m.getName(), m.getLicense(), onnx.getSource(),
                    "" + in.getAxes().length, in.getPreprocessing().get(in.getPreprocessing().size() - 1).getName(),
                    Arrays.toString(in.getShape().getShapeMin()), Arrays.toString(in.getShape().getShapeStep()),
                    m.getTestInputs().toString(), m.getTestOutputs().toString(), out.getName()));
        }
    }
}
