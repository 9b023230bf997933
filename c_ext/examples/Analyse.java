// Answer one study from Java, without a line of C: the foreign linker of JDK 17.
//
//   javac --add-modules jdk.incubator.foreign Analyse.java
//   java --add-modules jdk.incubator.foreign --enable-native-access=ALL-UNNAMED \
//       Analyse LIBMAMMOFM BUNDLE ROWS COLUMNS FILE    (16-bit pixels of one left CC view)
//
// JDK 22 and later have the same in java.lang.foreign: MemoryAddress is MemorySegment there,
// ResourceScope is Arena, and the MethodType follows from the FunctionDescriptor.

import static jdk.incubator.foreign.CLinker.C_INT;
import static jdk.incubator.foreign.CLinker.C_POINTER;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodType;
import java.nio.file.Files;
import java.nio.file.Path;
import jdk.incubator.foreign.CLinker;
import jdk.incubator.foreign.FunctionDescriptor;
import jdk.incubator.foreign.MemoryAccess;
import jdk.incubator.foreign.MemoryAddress;
import jdk.incubator.foreign.MemoryLayout;
import jdk.incubator.foreign.MemorySegment;
import jdk.incubator.foreign.ResourceScope;
import jdk.incubator.foreign.SegmentAllocator;
import jdk.incubator.foreign.SymbolLookup;

public final class Analyse {
    private static final int LEFT = 1, CC = 1, MONOCHROME2 = 2;
    // Offsets of mfm_view and mfm_study on 64-bit machines, as the C compiler lays them out.
    private static final long VIEW_SIZE = 128, PIXELS = 8, ROWS = 16, COLUMNS = 20;
    private static final long BITS_ALLOCATED = 32, LATERALITY = 44, PROJECTION = 48,
                              PHOTOMETRIC = 52;
    private static final long STUDY_SIZE = 32, VIEWS = 16, VIEW_COUNT = 24;

    private final CLinker linker = CLinker.getInstance();
    private final SymbolLookup library;

    private Analyse(String path) {
        System.load(Path.of(path).toAbsolutePath().toString());
        library = SymbolLookup.loaderLookup();
    }

    /** A function of pointers that returns a status. */
    private MethodHandle function(String name, int pointers) {
        MemoryLayout[] layouts = new MemoryLayout[pointers];
        Class<?>[] types = new Class<?>[pointers];
        java.util.Arrays.fill(layouts, C_POINTER);
        java.util.Arrays.fill(types, MemoryAddress.class);
        return linker.downcallHandle(library.lookup(name).orElseThrow(),
                                     MethodType.methodType(int.class, types),
                                     FunctionDescriptor.of(C_INT, layouts));
    }

    private void check(int status) throws Throwable {
        if (status == 0)
            return;
        MethodHandle lastError = linker.downcallHandle(
            library.lookup("mfm_last_error").orElseThrow(),
            MethodType.methodType(MemoryAddress.class), FunctionDescriptor.of(C_POINTER));
        throw new IllegalStateException(
            CLinker.toJavaString((MemoryAddress) lastError.invokeExact()));
    }

    private MemorySegment study(SegmentAllocator memory, byte[] pixels, int rows, int columns) {
        MemorySegment copy = memory.allocate(pixels.length, 2);
        copy.copyFrom(MemorySegment.ofArray(pixels));
        MemorySegment view = memory.allocate(VIEW_SIZE, 8).fill((byte) 0);
        MemoryAccess.setLongAtOffset(view, 0, VIEW_SIZE);
        MemoryAccess.setAddressAtOffset(view, PIXELS, copy.address());
        MemoryAccess.setIntAtOffset(view, ROWS, rows);
        MemoryAccess.setIntAtOffset(view, COLUMNS, columns);
        MemoryAccess.setIntAtOffset(view, BITS_ALLOCATED, 16);
        MemoryAccess.setIntAtOffset(view, LATERALITY, LEFT);
        MemoryAccess.setIntAtOffset(view, PROJECTION, CC);
        MemoryAccess.setIntAtOffset(view, PHOTOMETRIC, MONOCHROME2);
        MemorySegment views = memory.allocate(8, 8);
        MemoryAccess.setAddress(views, view.address());
        MemorySegment study = memory.allocate(STUDY_SIZE, 8).fill((byte) 0);
        MemoryAccess.setLongAtOffset(study, 0, STUDY_SIZE);
        MemoryAccess.setAddressAtOffset(study, VIEWS, views.address());
        MemoryAccess.setLongAtOffset(study, VIEW_COUNT, 1);
        return study;
    }

    private String json(String bundle, byte[] pixels, int rows, int columns) throws Throwable {
        try (ResourceScope scope = ResourceScope.newConfinedScope()) {
            SegmentAllocator memory = SegmentAllocator.ofScope(scope);
            MemorySegment out = memory.allocate(8, 8).fill((byte) 0);
            check((int) function("mfm_model_open", 3)
                      .invoke(CLinker.toCString(bundle, scope).address(), MemoryAddress.NULL,
                              out.address()));
            MemoryAddress model = MemoryAccess.getAddress(out);
            check((int) function("mfm_model_run", 4)
                      .invoke(model, study(memory, pixels, rows, columns).address(),
                              MemoryAddress.NULL, out.address()));
            MemoryAddress result = MemoryAccess.getAddress(out);
            check((int) function("mfm_result_json", 3)
                      .invoke(result, out.address(), MemoryAddress.NULL));
            String text = CLinker.toJavaString(MemoryAccess.getAddress(out));
            destroy("mfm_result_destroy", result);
            destroy("mfm_model_destroy", model);
            return text;
        }
    }

    private void destroy(String name, MemoryAddress handle) throws Throwable {
        linker.downcallHandle(library.lookup(name).orElseThrow(),
                              MethodType.methodType(void.class, MemoryAddress.class),
                              FunctionDescriptor.ofVoid(C_POINTER))
            .invoke(handle);
    }

    public static void main(String[] arguments) throws Throwable {
        byte[] pixels = Files.readAllBytes(Path.of(arguments[4]));
        int rows = Integer.parseInt(arguments[2]), columns = Integer.parseInt(arguments[3]);
        if (pixels.length != 2 * rows * columns)
            throw new IllegalArgumentException("the file has another size than the image");
        String text = new Analyse(arguments[0]).json(arguments[1], pixels, rows, columns);
        System.out.write(text.getBytes(java.nio.charset.StandardCharsets.UTF_8));
        System.out.flush();
    }
}
