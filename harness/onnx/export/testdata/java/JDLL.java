import java.util.Arrays;
import io.bioimage.modelrunner.bioimageio.description.ModelDescriptor;

/** Opens descriptions with JDLL, the library of deepImageJ and Icy, and prints what it has understood. */
public class JDLL {
    public static void main(String[] paths) throws Exception {
        for (String p : paths) {
            ModelDescriptor m = ModelDescriptor.readFromLocalFile(p);
            var in = m.getInputTensors().get(0);
            var out = m.getOutputTensors().get(0);
            System.out.println(String.join("|", m.getFormatVersion(), m.getName(), m.getLicense(),
                    m.getWeights().getSupportedWeightNamesAndVersion().toString(), in.getAxesOrder(), in.getDataType(),
                    in.getPreprocessing().get(0).getName(), Arrays.toString(in.getShape().getTileMinimumSize()),
                    Arrays.toString(in.getShape().getTileStep()), m.getTestInputs().get(0).getString(), out.getName()));
        }
    }
}
