// usage: java client_selector.java HOST PORT
//
// Reads the greeting over 20 channels that a selector knows, and has looked at, before they are connected.

import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;

class Client {
	public static void main(String[] args) throws Exception {
		InetSocketAddress where = new InetSocketAddress(args[0], Integer.parseInt(args[1]));
		Selector selector = Selector.open();
		SocketChannel[] channels = new SocketChannel[20];
		for (int i = 0; i < channels.length; i++) {
			channels[i] = SocketChannel.open();
			channels[i].configureBlocking(false);
			channels[i].register(selector, SelectionKey.OP_CONNECT);
		}
		selector.selectNow(); // this is when it tells the kernel
		selector.selectedKeys().clear();
		for (SocketChannel channel : channels)
			if (channel.connect(where))
				throw new Exception("connected at once");
		int open = channels.length;
		while (open > 0) {
			if (selector.select(5000) == 0)
				throw new Exception("timeout");
			for (SelectionKey key : selector.selectedKeys()) {
				SocketChannel channel = (SocketChannel) key.channel();
				if (key.isConnectable()) {
					if (channel.finishConnect())
						key.interestOps(SelectionKey.OP_READ);
				} else if (key.isReadable()) {
					ByteBuffer buf = ByteBuffer.allocate(100);
					if (channel.read(buf) < 0) {
						channel.close();
						open--;
					} else {
						System.out.print(new String(buf.array(), 0, buf.position(), StandardCharsets.UTF_8));
					}
				}
			}
			selector.selectedKeys().clear();
		}
	}
}
