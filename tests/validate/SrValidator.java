import com.pixelmed.validate.DicomSRValidator;

/** The pixelmed SR validator on many files: reading its templates takes longer than all of them. */
public class SrValidator {
    public static void main(String[] paths) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        for (String path : paths) {
            System.out.println("FILE " + path);
            try {
                // describe, match case, ambiguous templates, order of items, template identifiers
                System.out.println(validator.validate(path, false, true, false, true, true));
            } catch (Exception error) {
                System.out.println("Error: the validator failed: " + error);
            }
        }
    }
}
